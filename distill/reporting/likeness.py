"""Whether latencies of several runs may stand side by side: only those of one machine, system, runtime and protocol do.

A latency without its runtime's version is not comparable (one image tower on one phone: 50.9 ms in one release of Qualcomm's
runtime, 16.7 in another). Left out: accuracies, which depend on the data alone.
"""

from typing import Any

LATENCIES = ("image_p50_ms", "text_p50_ms")
RUNTIMES = ("torch", "onnxruntime", "executorch")
PROTOCOL = ("threads", "runs", "warmup_runs", "rounds")


def timed_under(facts: dict[str, Any]) -> dict[str, str]:
    """What a run's latencies were measured under: name of the condition -> value."""
    settings = facts["recipe"]["profile"]
    versions = {f"{name}'s version": str(facts["versions"].get(name, "absent")) for name in RUNTIMES}
    protocol = {f"profile.{name}": str(settings.get(name)) for name in PROTOCOL}
    return {"host": facts["host"], **versions, **protocol}


def differences(runs: list[dict[str, Any]]) -> list[str]:
    """The conditions that are not the same in all runs, each with every run's value."""
    conditions = [timed_under(facts) for facts in runs]
    found = []
    for name in conditions[0]:
        values = [own[name] for own in conditions]
        if len(set(values)) > 1:
            each = ", ".join(f"{value} ({facts['out']})" for value, facts in zip(values, runs, strict=True))
            found.append(f"{name}: {each}")
    return found
