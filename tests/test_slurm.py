"""The guide to SLURM on a real one, of one node: jobs, and one that is cancelled."""

import os
import re
import shutil
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
from conftest import ROOT, names

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")


@pytest.fixture
def slurm(tmp_path):
    """Start a SLURM and return its folder; it ends with all its jobs."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing or os.geteuid():
        pytest.skip(
            f"needs SLURM ({', '.join(missing) or 'as root'}): as root, "
            "apt-get install slurm-wlm munge"
        )
    folder = tmp_path / "slurm"
    folder.mkdir()
    command = [ROOT / "tests" / "slurm.sh", folder]
    begun = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if begun.returncode:
        pytest.skip(f"SLURM does not start on this machine: {begun.stderr}")
    yield folder
    subprocess.run([*command, "end"], check=True, timeout=100)


def at_work(process):
    """Return the job that has a kernel, once there is one."""
    end = time.time() + 400
    while process.poll() is None and time.time() < end:
        for one in psutil.process_iter():
            try:
                job = one.environ().get("SLURM_JOB_ID")
                if job and "ipykernel_launcher" in one.cmdline():
                    return job
            except psutil.Error:
                continue
        time.sleep(0.1)
    process.kill()
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_the_guide_with_a_job_that_is_cancelled(slurm, notebooks, tmp_path):
    text = (ROOT / "rerunning.md").read_text(encoding="utf-8")
    section = text.split("### SLURM")[1].split("### ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    swaps = {
        'cores=4, processes=4, memory="16GB"': 'cores=1, processes=1, memory="1GB"',
        "minimum_jobs=10, maximum_jobs=10": "minimum_jobs=2, maximum_jobs=2",
        '"05", "--grid", "latent=2,4,8,12"': (
            f'"90", "--grid", "seed=0..3", "-p", "wait=4", "-o", "{tmp_path}/out"'
        ),
    }
    for old, new in swaps.items():
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    (tmp_path / "guide.py").write_text(code)
    # the command, on a chapter that takes a moment
    command = tmp_path / "bin" / "nestedae"
    command.parent.mkdir()
    words = "import sys; from pathlib import Path; from nestedae_utils import cli"
    words += f"; sys.exit(cli.main(sys.argv[1:], Path('{notebooks}')))"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{words}" "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {
        "SLURM_CONF": str(slurm / "slurm.conf"),
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with subprocess.Popen(
        [sys.executable, "guide.py"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        job = at_work(process)
        subprocess.run(["scancel", job], env=environment, check=True)
        told = process.communicate(timeout=400)[0]
    assert process.returncode == 0, told
    log = (slurm / "slurmctld.log").read_text()
    assert f"REQUEST_KILL_JOB JobId={job} " in log
    assert "submit_batch_job: JobId=3 " in log, "one in its place"
    table = pd.read_csv(tmp_path / "out" / "sweep.csv")
    assert sorted(table["seed"]) == [0, 1, 2, 3]
    assert len(names(tmp_path / "out" / "runs")) == 4
    left = ["squeue", "--noheader", "--states=PENDING,RUNNING"]
    assert not subprocess.check_output(left, env=environment), "no job is left"
