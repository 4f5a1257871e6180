"""What a user is told while a model that was asked for by name is fetched and converted."""

import pytest
from huggingface_hub.utils import are_progress_bars_disabled


@pytest.mark.parametrize("is_quiet", [False, True])
def test_what_comes_before_loading_is_told_unless_quiet(generate, model, tmp_path, monkeypatch, is_quiet) -> None:
    """As a log sees it; and whether the Hub's client may show its bars."""
    silenced = []

    def prepared(name, method, progress, announce):
        with announce("owner/name: 2 files, 5.1 GB"):
            silenced.append(are_progress_bars_disabled())
        for done in (0, 1, 2):
            progress(done, 2)
        return model

    monkeypatch.setattr("likeness.generate.studio.prepare", prepared)
    quiet = ["--quiet"] if is_quiet else []
    result = generate("--no-reference", "-p", "a man", "-o", tmp_path / "v.mp4", *quiet)
    assert result.exit_code == 0, result.output
    told = [line for line in result.stderr.splitlines() if line.startswith(("fetching", "converting"))]
    lines = ["fetching: owner/name: 2 files, 5.1 GB", "converting: the published weights, which is done once"]
    assert told == ([] if is_quiet else lines)
    assert silenced == [is_quiet] and are_progress_bars_disabled()
