"""Looks at every study that an Orthanc has received whole, and stores the results there.

    export DESCRY_DICOMWEB_USER=... DESCRY_DICOMWEB_PASSWORD=...
    python orthanc_watch.py http://127.0.0.1:8042 --checkpoint model.safetensors -o RESULTS

Needs `pip install 'descry[archive]'` and Orthanc's DICOMweb plugin. Orthanc calls a study stable
when nothing has come for its `StableAge` (60 s). RESULTS holds a folder for each study, and in
`watch.json` how far this program is: stopped and started again, it goes on from there. Research
use only.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests

SECONDS = 5.0  # between two looks
WHOLE = (0, 1)  # exit codes of `descry predict` that come with results


def main() -> None:
    """Watch until stopped."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("orthanc", help="http(s)://HOST:PORT")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--once", action="store_true", help="end when nothing is left to do")
    given, more = parser.parse_known_args()  # what it does not know goes to `descry predict`
    given.out.mkdir(parents=True, exist_ok=True)
    while True:
        busy = look(given.orthanc.rstrip("/"), given.checkpoint, given.out, more)
        if given.once and not busy:
            return
        if not busy:
            time.sleep(SECONDS)


def look(orthanc: str, checkpoint: str, out: Path, more: list[str]) -> bool:
    """Take the next changes; say whether there may be others at once."""
    state = read_state(out)
    changes = asked(orthanc, f"/changes?since={state['last']}&limit=100")
    for change in changes["Changes"]:
        if change["ChangeType"] == "StableStudy":
            predict(orthanc, change["ID"], checkpoint, out, more, state)
        state["last"] = change["Seq"]
        write_state(out, state)
    return not changes["Done"]


def predict(
    orthanc: str, study: str, checkpoint: str, out: Path, more: list[str], state: dict[str, Any]
) -> None:
    """Look at a study, unless nothing but our own results has come since."""
    known = instances(orthanc, study)
    if known is None or set(known) <= set(state["seen"].get(study, ())):
        return
    uid = asked(orthanc, f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"]
    web = f"{orthanc}/dicom-web"
    query = ["--from", web, "--query", f"StudyInstanceUID={uid}"]
    command = [sys.executable, "-m", "pipeline", "predict", *query, "--checkpoint", checkpoint]
    command += ["-o", str(out / uid), "--sr", "--to", web, *more]
    if subprocess.run(command, check=False).returncode in WHOLE:
        state["seen"][study] = instances(orthanc, study)
    else:  # said on the terminal; the study's next change tries again
        logging.warning("study %s: not done", study)


def instances(orthanc: str, study: str) -> list[str] | None:
    """Orthanc's names of a study's instances; None where it has been deleted."""
    try:
        return [one["ID"] for one in asked(orthanc, f"/studies/{study}/instances")]
    except requests.HTTPError as error:
        if error.response.status_code == requests.codes.not_found:
            return None
        raise


def asked(orthanc: str, path: str) -> Any:
    """Orthanc's answer."""
    user = os.environ.get("DESCRY_DICOMWEB_USER")
    password = os.environ.get("DESCRY_DICOMWEB_PASSWORD", "")
    answer = requests.get(orthanc + path, auth=(user, password) if user else None, timeout=60)
    answer.raise_for_status()
    return answer.json()


def read_state(out: Path) -> dict[str, Any]:
    """How far we are: the last change, and the instances of the studies that are done."""
    try:
        state: dict[str, Any] = json.loads((out / "watch.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"last": 0, "seen": {}}
    return state


def write_state(out: Path, state: dict[str, Any]) -> None:
    """Keep it, whole or not at all."""
    temporary = out / "watch.json.tmp"
    temporary.write_text(json.dumps(state), encoding="utf-8")
    temporary.replace(out / "watch.json")


if __name__ == "__main__":
    main()
