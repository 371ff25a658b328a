"""docs/scale.md: jobs for Slurm and Kubernetes that could be started as they stand, and sums that add up."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from support.command_lines import parse

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def command_of(script: str, **variables: str) -> list[str]:
    """The words of the zsl-infer in a shell script, with variables in their places."""
    line = re.search(r"^ *(?:srun |exec )(zsl-infer .*?)$", script.replace("\\\n", " "), re.MULTILINE)[1]
    for name, value in variables.items():
        line = line.replace(f"${name}", value)
    assert "$" not in line
    return shlex.split(line)


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_the_array_of_slurm_has_every_share_once_and_no_output_twice():
    (script,) = blocks("bash")
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    first, last = map(int, re.search(r"--array=(\d+)-(\d+)", script).groups())
    count = last - first + 1
    found = []
    for task in range(first, last + 1):
        words = command_of(script, SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_COUNT=str(count))
        parse(words)
        assert "--resume" in words
        assert option(words, "--threads") == re.search(r"--cpus-per-task=(\d+)", script)[1]
        found.append((option(words, "--shard"), option(words, "--output")))
    assert [share for share, _ in found] == [f"{index}/{count}" for index in range(count)]
    assert len({output for _, output in found}) == count


def test_the_indexed_job_of_kubernetes_has_every_share_once_and_no_output_twice():
    (text,) = blocks("yaml")
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert 0 < spec["parallelism"] <= spec["completions"]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # as backoffLimitPerIndex demands
    (container,) = pod["containers"]
    assert container["command"] == ["/bin/sh", "-c"]
    (script,) = container["args"]
    found = []
    for index in range(spec["completions"]):
        words = command_of(script, JOB_COMPLETION_INDEX=str(index))
        parse(words)
        assert option(words, "--threads") == container["resources"]["requests"]["cpu"]
        found.append((option(words, "--shard"), option(words, "--output")))
    assert [share for share, _ in found] == [f"{index}/{len(found)}" for index in range(len(found))]
    assert len({output for _, output in found}) == len(found)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    assert all(output.startswith(f"{mounts['labels']}/") for _, output in found)


def test_the_reckoning_adds_up():
    """Each line worked out again from what is assumed."""
    rate = 95.2 / 2 * 16 * 100
    seconds = 1e9 / rate
    said = dict(re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", PAGE.partition("## Reckoned")[2], re.MULTILINE))
    assert said["rate of all"] == f"{rate:,.0f} a second"
    assert said["time"] == f"{round(seconds, -1):,.0f} s, {seconds / 3600:.1f} hours"
    assert said["CPUs"] == f"${1600 * round(seconds / 3600, 2) * 0.04:.0f}"
    assert said["requests, a photograph each"] == f"${1e9 * 0.0004 / 1000:.0f}"
    pieces = -(-1_000_000_000 // (4 << 20))
    assert f"100,000 x {pieces} x" in PAGE
    assert said["requests, in tar files of 1 GB read in 4 MiB"] == f"${100_000 * pieces * 0.0004 / 1000:.0f}"
    machine = rate / 100 * 100e3
    assert said["network of a machine"] == f"{machine / 1e6:.0f} MB/s, {machine * 8 / 1e9:.1f} Gbit/s"
    assert said["listing 10^9 names, each task by itself"].startswith(f"{1e6 * 0.05 / 3600:.0f} hours")
    assert said["listing 100,000 tar files, each task by itself"] == f"{100 * 0.05:.0f} s"
    assert said["answers, the best class of each"] == f"{1e9 * 74 / 1e9:.0f} GB"
    assert f"a share takes {500_000 / (95.2 / 2 * 8) / 60:.0f} minutes on 8 CPUs" in " ".join(PAGE.split())
