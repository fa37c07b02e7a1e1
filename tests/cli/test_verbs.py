"""Every verb: an example that is right, and `--json`."""

from __future__ import annotations

import shlex

import click
import pytest
from click.testing import CliRunner

from heliostat.cli.examples import EXAMPLES
from heliostat.cli.main import VERBS, cli


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_examples_that_are_right_and_every_verb_has_json(verb):
    assert EXAMPLES.keys() == VERBS.keys()
    shown = CliRunner().invoke(cli, [verb, "--help"]).output
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    for example in EXAMPLES[verb]:
        assert f"  {example}\n" in shown
        program, named, *arguments = shlex.split(example.partition(" > ")[0])
        assert (program, named) == ("heliostat", verb)
        with command.make_context(verb, arguments) as context:
            assert context.args == []
    assert any("--json" in parameter.opts for parameter in command.params)
