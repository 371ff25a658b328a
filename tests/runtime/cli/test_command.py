"""What all commands have in common: -h, --version, the last lines of their help, and completion by the shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zsl_runtime
from support.command_lines import SCRIPTS, commands, parse, typed
from support.tiny_bundle import SEEN, UNSEEN
from zsl_runtime.bundle.bundle import Bundle
from zsl_runtime.cli import completion
from zsl_runtime.cli.command import EXAMPLE_WIDTH, PLACES, Command, Group
from zsl_runtime.cli.infer_formats import FORMATS
from zsl_runtime.errors import SHELLS, run_command


def every_command() -> list[tuple[str, ...]]:
    """The words of each command and subcommand."""
    found: list[tuple[str, ...]] = []
    for name, command in commands().items():
        found.append((name,))
        found += [(name, sub) for sub in command.commands] if isinstance(command, click.Group) else []
    return found


def command_of(words: tuple[str, ...]) -> click.Command:
    command = commands()[words[0]]
    for word in words[1:]:
        command = command.commands[word]
    return command


def run(words: tuple[str, ...], *arguments: str) -> int:
    """Through the entry point that is installed."""
    main = import_module(SCRIPTS[words[0]].partition(":")[0]).main
    return main([*words[1:], *arguments])


EVERY = every_command()


def test_there_are_commands_and_subcommands():
    assert len(EVERY) >= 12
    assert {words[0] for words in EVERY} == set(SCRIPTS)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_version_is_one_line_and_exit_0(capsys, words):
    assert run(words, "--version") == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{words[0]}, zsl-deploy {zsl_runtime.__version__}\n", "")


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_has_a_short_name_and_ends_with_where_words_are_explained(capsys, words):
    assert run(words, "-h") == 0
    short = capsys.readouterr().out
    assert run(words, "--help") == 0
    assert capsys.readouterr().out == short
    assert short.startswith(f"Usage: {' '.join(words)} ")
    assert " ".join(short.split()).endswith(
        "Words are explained by zsl-doctor --explain WORD, and in the documentation's docs/glossary.md."
    )


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_teaches_by_examples_that_could_be_typed(capsys, monkeypatch, words):
    examples = command_of(words).examples
    assert 2 <= len(examples) <= 5
    for said, line in examples:
        lines = typed("\n".join(f"    {one}" for one in line.splitlines()))
        assert lines, line
        for typed_words in lines:
            parse(typed_words)
        assert max(map(len, [f"# {said}", *line.splitlines()])) <= EXAMPLE_WIDTH
    # The first ones are of the command itself; others may say what comes next.
    assert words[0] in examples[0][1]
    assert any(tuple(one[: len(words)]) == words for one in typed("\n".join(f"    {line}" for _, line in examples)))
    monkeypatch.setenv("COLUMNS", "40")
    assert run(words, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.count("\nExamples:\n") == 1
    for said, line in examples:
        assert f"\n  # {said}\n  {line}\n" in shown


def test_a_command_without_examples_has_no_heading_of_them(capsys):
    @click.command("zsl-something", cls=Command)
    def command() -> None:
        pass

    assert run_command(command, ["--help"]) == 0
    assert "Examples" not in capsys.readouterr().out


def test_settings_of_a_command_are_kept():
    @click.command("zsl-something", cls=Command, context_settings={"max_content_width": 99}, epilog="The end.")
    @click.option("--count", type=int)
    def command(count: int | None) -> int:
        return count or 0

    assert command.context_settings == {"help_option_names": ["-h", "--help"], "max_content_width": 99}
    assert command.epilog == "The end."
    assert [option.name for option in command.params] == ["count", "completion", "version"]
    assert run_command(command, ["--count", "6"]) == 6


def test_commands_of_a_group_are_of_the_same_kind():
    @click.group("zsl-something", cls=Group)
    def group() -> None:
        pass

    @group.command("inner")
    def inner() -> None:
        pass

    assert isinstance(inner, Command)
    assert run_command(group, ["inner", "-h"]) == 0


# --- completion -----------------------------------------------------------------------------------------------------


def rename(bundle: Path, names: list[str]) -> None:
    """Let a bundle's generation say other names, as far as completion reads it."""
    number = json.loads((bundle / "classes" / "CURRENT").read_text())["generation"]
    header = json.dumps({"__metadata__": {"names": json.dumps(names)}}).encode()
    path = bundle / "classes" / f"{number:06d}.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def variable(name: str) -> str:
    return f"_{name.upper().replace('-', '_')}_COMPLETE"


@pytest.fixture
def complete(monkeypatch, capfdbinary):
    """What bash is offered behind these words, as (type, value)."""

    def ask(words: str, cursor: str = "") -> list[tuple[str, str]]:
        given = words.split()
        monkeypatch.setenv(variable(given[0]), "bash_complete")
        monkeypatch.setenv("COMP_WORDS", f"{words} {cursor}")
        monkeypatch.setenv("COMP_CWORD", str(len(given)))
        assert run((given[0],)) == 0
        said = capfdbinary.readouterr()
        assert said.err == b""
        lines = said.out.decode().splitlines()
        return [tuple(line.split(",", 1)) for line in lines if line]

    return ask


@pytest.mark.parametrize(
    ("shell", "part"),
    [
        ("bash", "complete -o nosort -F _{function}_completion {name}"),
        ("zsh", "compdef _{function}_completion {name}"),
        ("fish", "complete --no-files --command {name} --arguments"),
    ],
)
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_for_each_shell(monkeypatch, capfdbinary, name, shell, part):
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("no bash here")  # it is asked for its version
    monkeypatch.setenv(variable(name), f"{shell}_source")
    assert run((name,)) == 0
    out = capfdbinary.readouterr().out.decode()
    assert part.format(name=name, function=name.replace("-", "_")) in out
    assert f"{variable(name)}={shell}_complete" in out


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_options_are_completed(complete, words):
    offered = complete(" ".join(words), "--")
    assert {value for _, value in offered} == {
        flag for option in command_of(words).params for flag in option.opts if flag.startswith("--")
    } | {"--help"}


def test_choices_and_subcommands_are_completed(complete):
    assert complete("zsl-infer photos --format") == [("plain", one) for one in FORMATS]
    assert ("plain", "openvino") in complete("zsl-infer --backend", "o")
    assert complete("zsl-classes", "tea") == [("plain", "teach")]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_whatever_names_a_file_or_a_folder_is_completed_by_the_shell(complete, words):
    """As far as a help text says so; values are taken as they are, whatever is on the disk."""
    for parameter in command_of(words).params:
        shown = (parameter.metavar or parameter.name).upper().strip("[")
        place = next((kind for word, kind in PLACES.items() if shown.startswith(word)), None)
        if place is None:
            continue
        before = [parameter.opts[0]] if isinstance(parameter, click.Option) else []
        offered = complete(" ".join([*words, *before]), "some")
        if isinstance(parameter.type, click.Path):
            assert offered[0][0] in {"file", "dir"}
        else:
            assert offered == [(place, "some")]
            assert parameter.type.convert("no/such/\udce9 file", parameter, None) == "no/such/\udce9 file"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("zsl-infer", "file"),
        ("zsl-infer photos --engine", "file"),
        ("zsl-infer photos --output", "file"),
        ("zsl-classes add --photos", "dir"),
        ("zsl-classes add --attributes", "file"),
        ("zsl-classes list --engine", "file"),
        ("zsl-doctor", "file"),
        ("zsl-export", "file"),
        ("zsl-export run --data", "dir"),
        ("zsl-export run --out", "file"),
        ("zsl-train --data", "file"),
        ("zsl-train --weights", "file"),
    ],
)
def test_files_and_folders(complete, words, kind):
    assert complete(words, "so") == [(kind, "so")]


def test_names_of_classes_are_those_of_the_bundle_on_the_line(complete, shared_bundle, monkeypatch, tmp_path):
    bundle = shared_bundle()
    every = [("plain", name) for name in SEEN + UNSEEN]
    assert complete(f"zsl-classes remove --engine {bundle}") == every
    assert complete(f"zsl-classes explain --engine {bundle}/manifest.json") == every
    assert complete(f"zsl-classes template --engine {bundle} --like", SEEN[0][:2].upper()) == [
        ("plain", name) for name in SEEN + UNSEEN if name.startswith(SEEN[0][:2])
    ]
    assert complete(f"zsl-classes remove --engine {bundle} {SEEN[0]}") == every[1:]
    (tmp_path / "bundle").symlink_to(bundle)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert complete("zsl-classes remove --engine ~/bundle") == every
    assert complete("zsl-classes remove --engine $HOME/bundle") == every
    assert complete("zsl-classes remove") == []


def test_the_names_are_those_of_the_generation_in_force(own_bundle):
    bundle = own_bundle()
    assert run(("zsl-classes",), "remove", "--engine", str(bundle), SEEN[0]) == 0
    assert completion.names_of(str(bundle)) == list((SEEN + UNSEEN)[1:])
    assert list(Bundle.open(bundle).current().table.names) == completion.names_of(str(bundle))


@given(data=st.binary(max_size=200), where=st.sampled_from(["CURRENT", "000001.safetensors"]))
def test_a_damaged_bundle_offers_nothing_and_says_nothing(tmp_path_factory, data, where):
    bundle = tmp_path_factory.mktemp("damaged")
    (bundle / "classes").mkdir()
    (bundle / "classes" / "CURRENT").write_bytes(b'{"generation": 1}')
    (bundle / "classes" / where).write_bytes(data)
    context = click.Context(command_of(("zsl-classes", "remove")))
    context.params["engine"] = str(bundle)
    assert completion.class_names(context, context.command.params[0], "") == []
    for engine in (None, "", "/nowhere", f"{bundle}/\udce9", "no\0thing"):
        context.params["engine"] = engine
        assert completion.class_names(context, context.command.params[0], "") == []


def test_devices_are_those_that_are_here(complete, monkeypatch):
    there = {"/dev/nvidia0", "/dev/nvidia2"}
    monkeypatch.setattr(completion.os.path, "exists", lambda path: path in there)
    assert complete("zsl-infer photos --device") == [("plain", one) for one in ("auto", "cpu", "cuda:0", "cuda:2")]
    assert complete("zsl-eval --device", "cuda:2") == [("plain", "cuda:2")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_breaks_at_tab_prints_nothing(monkeypatch, capfd, shell):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(click.shell_completion, "_resolve_context", broken)
    monkeypatch.setenv("_ZSL_INFER_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", "zsl-infer ")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert run(("zsl-infer",)) == 0
    assert capfd.readouterr() == ("", "")


def test_completion_looks_at_nothing_and_runs_nothing(complete, tmp_path):
    assert complete(f"zsl-doctor {tmp_path}/none", "--c") == [("plain", "--cards"), ("plain", "--completion")]
    assert complete("zsl-infer --version", "--top") == [("plain", "--topk")]


@pytest.mark.parametrize("instruction", ["tcsh_source", "bash_guess", "1"])
def test_another_instruction_is_one_line(monkeypatch, capsys, instruction):
    monkeypatch.setenv("_ZSL_INFER_COMPLETE", instruction)
    assert run(("zsl-infer",)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: E-COMPLETION: _ZSL_INFER_COMPLETE is {instruction!r}; expected one of bash_source, ")
    assert err.count("\n") == 1


def test_an_empty_variable_asks_for_nothing(monkeypatch, capsys):
    monkeypatch.setenv("_ZSL_DOCTOR_COMPLETE", "")
    assert run(("zsl-doctor",), "--version") == 0
    assert capsys.readouterr().out.startswith("zsl-doctor, ")


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Where zsl-infer and zsl-classes are commands on the path, and the home folder is empty."""
    for name in ("infer", "classes"):
        program = tmp_path / f"zsl-{name}"
        program.write_text(
            f"#!{sys.executable}\nimport sys\nfrom zsl_runtime.cli.{name} import main\nsys.exit(main())\n"
        )
        program.chmod(0o755)
    return os.environ | {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def said_by(shell: str, script: str, environment: dict[str, str], folder: Path) -> list[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run(
        [shell, "-c", script], capture_output=True, text=True, check=True, env=environment, cwd=folder
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("source", ["_ZSL_INFER_COMPLETE=bash_source zsl-infer", "zsl-infer --completion bash"])
def test_a_real_bash_completes_an_option_and_a_choice(environment, tmp_path, source):
    """Its script, evaluated as docs/how-to/shell.md says, and its function called as bash does at TAB."""
    script = (
        f'eval "$({source})"\n'
        'ask() { COMP_WORDS=(zsl-infer "$@"); COMP_CWORD=$#; COMPREPLY=(); _zsl_infer_completion zsl-infer; '
        'echo "${COMPREPLY[@]}"; }\n'
        "ask --res\nask photos --classes un\n"
    )
    assert said_by("bash", script, environment, tmp_path) == ["--resume", "unseen"]


@pytest.mark.parametrize(
    ("typed_by_user", "offered"),
    [
        ("", r"Honey\ Plumewren Crow"),
        ("Ho", r"Honey\ Plumewren"),
        (r"Honey\\ Pl", r"Honey\ Plumewren"),
        ("'\"Honey Pl'", "Honey Plumewren"),
    ],
)
def test_a_real_bash_completes_names_with_spaces_as_one_word(environment, own_bundle, tmp_path, typed_by_user, offered):
    bundle = own_bundle()
    rename(bundle, ["Honey Plumewren", "Crow"])
    script = (
        'eval "$(zsl-infer --completion bash)"\n'
        f'ask() {{ COMP_WORDS=(zsl-classes remove --engine {bundle} "$1"); COMP_CWORD=4; COMPREPLY=(); '
        '_zsl_classes_completion zsl-classes; IFS=" "; echo "${COMPREPLY[*]}"; }\n'
        f"ask {typed_by_user or repr('')}\n"
    )
    assert said_by("bash", script, environment, tmp_path) == [offered]


def test_a_real_zsh_takes_the_scripts_of_all_commands(environment, tmp_path):
    script = (
        "autoload -U compinit && compinit -D -u\nsource <(zsl-infer --completion zsh)\n"
        "for name in zsl-infer zsl-classes; do print $_comps[$name]; done\n"
    )
    assert said_by("zsh", script, environment, tmp_path) == ["_zsl_infer_completion", "_zsl_classes_completion"]


@pytest.mark.parametrize("source", ["env _ZSL_INFER_COMPLETE=fish_source zsl-infer", "zsl-infer --completion fish"])
def test_a_real_fish_completes_an_option_a_choice_and_a_file(environment, tmp_path, source):
    (tmp_path / "desk" / "photos").mkdir(parents=True)
    script = (
        f"{source} | source\n"
        "complete -C 'zsl-infer --res'\ncomplete -C 'zsl-infer x --classes un'\ncomplete -C 'zsl-infer ph'\n"
    )
    offered = [line.partition("\t")[0] for line in said_by("fish", script, environment, tmp_path / "desk")]
    assert offered == ["--resume", "unseen", "photos/"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_command_prints_the_scripts_of_all(capsys, name, shell):
    assert run((name,), "--completion", shell) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert set(re.findall(rf"(_ZSL_\w+_COMPLETE)={shell}_complete", said.out)) == {variable(one) for one in SCRIPTS}


def test_the_commands_that_are_completed_are_those_that_are_installed():
    assert set(completion.COMMANDS) == set(SCRIPTS)
    assert [completion.variable(one) for one in SCRIPTS] == [variable(one) for one in SCRIPTS]


def test_another_shell_is_one_line_with_those_that_there_are(capsys):
    assert run(("zsl-infer",), "--completion", "tcsh") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(repr(shell) in line for shell in SHELLS)


def test_the_page_says_how_each_shell_is_taught():
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "shell.md").read_text(encoding="utf-8")
    assert set(re.findall(r"zsl-\w+ --completion (\w+)", page)) == set(SHELLS)
