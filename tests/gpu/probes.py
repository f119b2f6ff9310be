"""Run the probes of `helpers/probes.py` on the GPU: `COURSE_T4=1 python tests/gpu/probes.py`."""

import sys
from dataclasses import asdict

import common

from helpers import environment


def main() -> None:
    report = environment.check(probe=True)
    found = [probe._asdict() for probe in report.probes]
    differing = [asdict(row) for row in report.rows if not row.ok]
    common.save("probes", {"probes": found, "machine": report.machine, "differing": differing})
    common.table([["probe", "ok", "detail"], *([p["name"], p["ok"], p["detail"]] for p in found)])
    sys.exit(0 if found and all(probe["ok"] for probe in found) else 1)


if __name__ == "__main__":
    main()
