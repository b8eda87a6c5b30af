"""MLflow's registry store, refusing every change of a guarded model that evidence does not admit.

MLflow chooses it by the scheme of ``--registry-store-uri`` (``gated+sqlite``, ``gated+postgresql``, ``gated+mysql``);
the rest of the address is the database's own. What is not guarded behaves as in stock MLflow, except that nobody may
make a model that looks like a guarded one, nor use a name longer than 256 characters.
MLflow's store is untyped, so its entities are Any here.
Not covered: other ways into the database; models that look like a guarded one and were there before it was guarded.
"""

# mypy: disable-error-code="no-untyped-call"
# (MLflow's classes are typed in part)

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.server.constants import READ_REPLICA_BACKEND_STORE_URI_ENV_VAR
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from guardrail import logs
from guardrail.errors import EvidenceInvalid, InvalidInput
from guardrail.evidence.trust.trust_file import GuardedModel, ProtectedAlias, Trust
from guardrail.gate.mlflow_errors import refusing, unproven
from guardrail.gate.registrar import Registrar
from guardrail.gate.settings import SCHEME, open_journal, settings
from guardrail.gate.store.database_names import Spellings, require_alias, require_name
from guardrail.gate.store.store_methods import require_classified
from guardrail.gate.trust.trust_version_floor import DatabaseFloor, Floors
from guardrail.gate.trust.trust_watch import TrustWatch, accepted
from guardrail.gate.versions.alias_validity import DiffersError, require_valid
from guardrail.gate.versions.mlflow_tables import Beneath
from guardrail.gate.versions.version_evidence import is_sealed
from guardrail.names import alike

_logger = logs.logger("guardrail.server")


class GatedStore(SqlAlchemyStore):
    """The store behind a ``gated+…`` address.

    Raises:
        InvalidInput: this MLflow has methods that nobody classified, or a setting is missing.
        EvidenceInvalid: there is no valid trust file.
    """

    def __init__(self, store_uri: str) -> None:
        require_classified(type(self))
        if not store_uri.startswith(SCHEME):
            raise InvalidInput(f"{store_uri.partition(':')[0]}: is no scheme of the gate", expected=f"{SCHEME}…")
        read = os.environ.get(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR)
        super().__init__(store_uri.removeprefix(SCHEME), read_db_uri=read)
        given = settings()
        engines = [self.engine] if self.read_engine is None else [self.engine, self.read_engine]
        self._spellings = [Spellings(engine) for engine in engines]
        journal = open_journal(given, accepted(given, datetime.now(UTC)))
        floors = Floors(journal, DatabaseFloor(self.engine))
        self._watch = TrustWatch(given, floors, require=self._require_distinct)
        self.registrar = Registrar(Beneath(self), self._watch, journal)

    def create_registered_model(
        self, name: str, tags: Any = None, description: str | None = None, deployment_job_id: str | None = None
    ) -> Any:
        """A guarded name may be made, empty and spelt as in the trust file: promotion needs it."""
        with refusing():
            guarded = self._guarded(name)
            if guarded is not None:
                self._watch.current()
                if name != guarded.name:
                    raise unproven(f"the name {name!r}, another spelling", guarded.name)
                if list(tags or []) or description:
                    raise unproven("a tag or description", name)
            else:
                self._unless_look_alike(name)
        return super().create_registered_model(name, tags, description, deployment_job_id)

    def update_registered_model(self, name: str, description: str | None, deployment_job_id: str | None = None) -> Any:
        """Refused."""
        self._unless_guarded("the description", name)
        return super().update_registered_model(name, description, deployment_job_id)

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        """Refused, from a guarded name and onto one."""
        self._unless_guarded("the name", name)
        self._unless_guarded("the name", new_name)
        with refusing():
            self._unless_look_alike(new_name)
        return super().rename_registered_model(name, new_name)

    def delete_registered_model(self, name: str) -> None:
        """Refused."""
        self._unless_guarded("the existence", name)
        super().delete_registered_model(name)

    def set_registered_model_tag(self, name: str, tag: RegisteredModelTag) -> None:
        """Refused."""
        self._unless_guarded("a tag", name)
        super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Refused."""
        self._unless_guarded("a tag", name)
        super().delete_registered_model_tag(name, key)

    def update_model_version(self, name: str, version: str, description: str | None = None) -> Any:
        """Refused."""
        self._unless_guarded("the description of a version", name)
        return super().update_model_version(name, version, description)

    def transition_model_version_stage(
        self, name: str, version: str, stage: str, archive_existing_versions: bool
    ) -> Any:
        """Refused."""
        self._unless_guarded("the stage of a version", name)
        return super().transition_model_version_stage(name, version, stage, archive_existing_versions)

    def delete_model_version(self, name: str, version: str) -> None:
        """Refused."""
        self._unless_guarded("the existence of a version", name)
        super().delete_model_version(name, version)

    def set_model_version_tag(self, name: str, version: str, tag: ModelVersionTag) -> None:
        """Refused."""
        self._unless_guarded("a tag of a version", name)
        super().set_model_version_tag(name, version, tag)

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        """Refused."""
        self._unless_guarded("a tag of a version", name)
        super().delete_model_version_tag(name, version, key)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Refused for a protected alias."""
        with refusing():
            guarded = self._guarded(name)
            if guarded is not None:
                self._watch.current()
                _require_exact(name, guarded)
                if self._is_protected(guarded, alias):
                    raise unproven(f"the alias {alias!r}", name)
        super().delete_registered_model_alias(name, alias)

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Any = None,
        run_link: str | None = None,
        description: str | None = None,
        local_model_path: str | None = None,
        model_id: str | None = None,
    ) -> Any:
        """Of a guarded model only what the evidence in the proposed files admits; they are sealed, then registered."""
        with refusing():
            guarded = self._guarded(name)
        if guarded is None:
            return super().create_model_version(
                name, source, run_id, tags, run_link, description, local_model_path, model_id
            )
        with refusing():
            _require_exact(name, guarded)
            if description or run_link:
                raise unproven("the description or run link of a version", name)
            return self.registrar.propose(guarded, source, {tag.key: tag.value for tag in tags or []})

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """A protected alias only forward, to a version whose sealed evidence admits it now."""
        with refusing():
            require_alias(alias)
            guarded = self._guarded(name)
        if guarded is None or not self._is_protected_here(guarded, name, alias):
            super().set_registered_model_alias(name, alias, version)
            return
        with refusing():
            self.registrar.move_alias(guarded, alias, version)

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        """A protected alias resolves only while its evidence is valid and its adapter not revoked."""
        with refusing():
            require_name(name)
            require_alias(alias)
        found = super().get_model_version_by_alias(name, alias)
        with refusing():
            guarded = self._guarded(name)
            protected = self._protected(guarded, alias) if guarded else None
            if guarded is not None and protected is not None:
                found = self._valid(found, guarded, protected, name, alias)
        if guarded is None:
            self._name_look_alike(name)
        return found

    def get_model_version_download_uri(self, name: str, version: str) -> Any:
        """Of a sealed version where it was sealed, which is judged, whatever another column of its row says."""
        found = super().get_model_version(name, version)
        return found.source if is_sealed(found) else super().get_model_version_download_uri(name, version)

    def _valid(self, found: Any, guarded: GuardedModel, protected: ProtectedAlias, name: str, alias: str) -> Any:
        """What the alias stands at, if it may be handed out."""
        try:
            self._require_valid(found, guarded, protected)
        except DiffersError:  # a move may be between its entry and the alias: look again when none goes on
            with self.registrar.sealing().queues.decisions.turn():
                found = super().get_model_version_by_alias(name, alias)
                self._require_valid(found, guarded, protected)
        return found

    def _require_valid(self, version: Any, guarded: GuardedModel, protected: ProtectedAlias) -> None:
        registrar = self.registrar
        require_valid(version, guarded, protected, registrar.journal.state(), self._watch.now(), registrar.terms)

    def _guarded(self, name: str) -> GuardedModel | None:
        """The guarded model that ``name`` reaches, or would: to the trust file, or to the database.

        Raises:
            EvidenceInvalid: no database holds such a name, or not this one; or this worker does not know which names
                are guarded.
        """
        require_name(name)
        trust = self._watch.names()
        found = trust.guarded(name)
        for spellings in self._spellings if found is None else ():
            reached = spellings.model(name, [model.name for model in trust.models])
            found = trust.guarded(reached) if reached is not None else found
        return found

    def _protected(self, guarded: GuardedModel, alias: str) -> ProtectedAlias | None:
        """The protected alias that ``alias`` reaches, or would: to the trust file, or to the database."""
        found = guarded.protected(alias)
        for spellings in self._spellings if found is None else ():
            reached = spellings.alias(guarded, alias)
            found = guarded.protected(reached) if reached is not None else found
        return found

    def _is_protected(self, guarded: GuardedModel, alias: str) -> bool:
        """Protected, or so alike that some database or reader may not tell them apart."""
        require_alias(alias)
        return not alias.isascii() or self._protected(guarded, alias) is not None

    def _require_distinct(self, trust: Trust) -> None:
        for spellings in self._spellings:
            spellings.require_distinct(trust)

    def _unless_look_alike(self, name: str) -> None:
        """No new model that a reader takes for a guarded one. Two names in ASCII are left: ``model-1`` may be honest
        beside ``model-l``, and the log names it."""
        guarded = self._watch.names().looks_like(name)
        if guarded is not None and name.isascii() and guarded.name.isascii():
            self._name_look_alike(name)
        elif guarded is not None:
            raise EvidenceInvalid(
                f"the name {name!a} looks like the guarded model {guarded.name!a}",
                expected="a name that nobody takes for it (Unicode Technical Standard 39)",
                next_step="choose another name",
            )

    def _name_look_alike(self, name: str) -> None:
        """Tell the operator of an unguarded model that looks like a guarded one."""
        if (guarded := self._watch.names().looks_like(name)) is not None:
            _logger.warning("the unguarded model %a looks like the guarded model %a", name, guarded.name)

    def _unless_guarded(self, what: str, name: str) -> None:
        with refusing():
            if (guarded := self._guarded(name)) is not None:
                raise unproven(what, guarded.name)

    def _is_protected_here(self, guarded: GuardedModel, name: str, alias: str) -> bool:
        """Whether the alias is protected; another one of a guarded model is free, if no spelling can confuse them."""
        with refusing():
            self._watch.current()
            _require_exact(name, guarded)
            if any(protected.alias == alias for protected in guarded.aliases):
                return True
            if self._is_protected(guarded, alias):
                raise unproven(f"the alias {alias!r}, another spelling of a protected one,", name)
            if any(alike(protected.alias, alias) for protected in guarded.aliases):
                raise unproven(f"the alias {alias!r}, which looks like a protected one,", name)
            return False


def _require_exact(name: str, guarded: GuardedModel) -> None:
    if name != guarded.name:
        raise unproven(f"the name {name!r}, another spelling,", guarded.name)
