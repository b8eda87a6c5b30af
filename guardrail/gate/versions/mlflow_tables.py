"""The registry store beneath the gate: what the gate itself does to MLflow's tables once it has decided.

MLflow's store is untyped, so its entities are Any here. Not covered: deciding (``gate/registrar.py``).
"""

# mypy: disable-error-code="no-untyped-call"
# (MLflow's classes are typed in part)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow.entities.model_registry import ModelVersionTag
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from guardrail.registry.mlflow.tags import PREFIX


class Beneath:
    """MLflow's own methods of a gated store."""

    def __init__(self, store: SqlAlchemyStore) -> None:
        self._store = store

    def version(self, name: str, version: str) -> Any:
        """A model version."""
        return SqlAlchemyStore.get_model_version(self._store, name, version)

    def versions(self, name: str) -> list[Any]:
        """Every version of a model that is not deleted, oldest first."""
        with self._store.ManagedSessionMaker() as session:
            rows = (
                self._store._get_query(session, SqlModelVersion)
                .filter(SqlModelVersion.name == name, SqlModelVersion.current_stage != STAGE_DELETED_INTERNAL)
                .order_by(SqlModelVersion.version)
            )
            return [row.to_mlflow_entity() for row in rows]

    def aliases(self, name: str) -> dict[str, str]:
        """Alias to version; empty where there is no such model."""
        from mlflow.exceptions import MlflowException

        try:
            found = SqlAlchemyStore.get_registered_model(self._store, name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        return {str(alias): str(version) for alias, version in found.items()}

    def versions_at(self, name: str, location: str) -> list[Any]:
        """The versions that stand for these sealed bytes, oldest first: promoting twice gives one."""
        with self._store.ManagedSessionMaker() as session:
            rows = (
                self._store._get_query(session, SqlModelVersion)
                .filter(
                    SqlModelVersion.name == name,
                    SqlModelVersion.source == location,
                    SqlModelVersion.current_stage != STAGE_DELETED_INTERNAL,
                )
                .order_by(SqlModelVersion.version)
            )
            return [row.to_mlflow_entity() for row in rows]

    def make_version(
        self, name: str, location: str, run_id: str | None, tags: Mapping[str, str], above: int = 0
    ) -> Any:
        """A new version with its tags, in one transaction; its number is higher than ``above``."""
        self._use_up(name, above)
        made = [ModelVersionTag(key, value) for key, value in tags.items()]
        return SqlAlchemyStore.create_model_version(self._store, name, location, run_id, made)

    def mark(self, name: str, version: str, tags: Mapping[str, str], description: str | None) -> None:
        """Give a version these tags and this description, where it has others."""
        found = self.version(name, version)
        for key, value in tags.items():
            if found.tags.get(key) != value:
                SqlAlchemyStore.set_model_version_tag(self._store, name, version, ModelVersionTag(key, value))
        if (found.description or None) != description:
            SqlAlchemyStore.update_model_version(self._store, name, version, description)

    def mend(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Give a version exactly these ``guardrail.*`` tags, and no description."""
        self.mark(name, version, tags, None)
        for key in self.version(name, version).tags:
            if key.startswith(PREFIX) and key not in tags:
                SqlAlchemyStore.delete_model_version_tag(self._store, name, version, key)

    def _use_up(self, name: str, last: int) -> None:
        """Leave the row of a deleted version at ``last``, as MLflow does: numbers up to there are not given again."""
        with self._store.ManagedSessionMaker(read_only=False) as session:
            self._store._get_registered_model(session, name)  # raises where there is none
            query = self._store._get_query(session, SqlModelVersion).filter(SqlModelVersion.name == name)
            if last <= max((int(row.version) for row in query), default=0):
                return
            row = SqlModelVersion(name=name, version=last, current_stage=STAGE_DELETED_INTERNAL, source="", run_id="")
            session.add(self._store._with_workspace_field(row))

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        SqlAlchemyStore.set_registered_model_alias(self._store, name, alias, version)
