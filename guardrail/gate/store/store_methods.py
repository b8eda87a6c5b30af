"""What each public method of MLflow's registry store may do to a guarded model; a new one stops the server.

*read* changes nothing. *gated* is overridden by the gate. *stock* runs as MLflow wrote it: it touches no registered
model (webhooks), or reaches one only through gated methods (prompts, copies). A method that a newer MLflow adds is in
none of the three, so the server does not start until somebody has looked at it.
Not covered: the tracking store (``gate_experiments.py``), which cannot write to the registry's tables.
"""

from __future__ import annotations

from guardrail.errors import InvalidInput

READ = frozenset(
    {
        "get_latest_versions",
        "get_model_version",
        "get_prompt",
        "get_prompt_version",
        "get_prompt_version_by_alias",
        "get_registered_model",
        "get_webhook",
        "list_webhooks",
        "list_webhooks_by_event",
        "search_model_versions",
        "search_prompt_versions",
        "search_prompts",
        "search_registered_models",
        "supports_workspaces",
    }
)

GATED = frozenset(
    {
        "create_model_version",
        "create_registered_model",
        "delete_model_version",
        "delete_model_version_tag",
        "delete_registered_model",
        "delete_registered_model_alias",
        "delete_registered_model_tag",
        "get_model_version_by_alias",
        "get_model_version_download_uri",
        "rename_registered_model",
        "set_model_version_tag",
        "set_registered_model_alias",
        "set_registered_model_tag",
        "transition_model_version_stage",
        "update_model_version",
        "update_registered_model",
    }
)

WEBHOOKS = frozenset({"create_webhook", "delete_webhook", "test_webhook", "update_webhook"})
"""Webhooks fire after a change is stored: they can neither make nor prevent one."""

THROUGH_GATED = frozenset(
    {
        "copy_model_version",
        "create_prompt",
        "create_prompt_version",
        "delete_prompt",
        "delete_prompt_alias",
        "delete_prompt_tag",
        "delete_prompt_version",
        "delete_prompt_version_tag",
        "link_prompt_version_to_model",
        "link_prompt_version_to_run",
        "link_prompts_to_trace",
        "set_prompt_alias",
        "set_prompt_tag",
        "set_prompt_version_tag",
    }
)
"""Written by MLflow in terms of the other methods; the links change runs, models and traces, not the registry."""

STOCK = WEBHOOKS | THROUGH_GATED


def public_methods(store: type) -> frozenset[str]:
    """The names of the methods and properties that a request could reach."""
    return frozenset(
        name
        for name in dir(store)
        if not name.startswith("_") and (callable(getattr(store, name)) or isinstance(getattr(store, name), property))
    )


def require_classified(store: type) -> None:
    """Refuse a store with a method that nobody has classified.

    Raises:
        InvalidInput: this MLflow is newer than the gate.
    """
    unknown = sorted(public_methods(store) - READ - GATED - STOCK)
    if unknown:
        raise InvalidInput(
            f"this MLflow's registry store has methods that the gate does not know: {', '.join(unknown)}",
            expected="an MLflow version that this guardrail was made for",
            next_step="install the MLflow version that guardrail's constraints name, or a newer guardrail",
        )
