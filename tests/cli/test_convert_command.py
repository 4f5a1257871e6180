import torch
from typer.testing import CliRunner

from likeness.backbones.load import load_method
from likeness.cli import app
from likeness.method import CONCAT_ID_WAN, ST_DRC
from likeness.pipeline import LikenessPipeline


def test_a_base_is_prepared_and_mistakes_are_one_line(random_wan_components, tmp_path) -> None:
    base = tmp_path / "base"
    LikenessPipeline(**random_wan_components, method=CONCAT_ID_WAN).save_pretrained(base)
    arguments = ["convert", str(base), "--method", "st-drc", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and result.stdout.strip() == str(tmp_path / "out")
    assert load_method(tmp_path / "out") == ST_DRC
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "--overwrite" in again.stderr and len(again.stderr.splitlines()) == 1
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exit_code == 0
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    alone = CliRunner().invoke(app, ["convert", str(tmp_path / "w.pt"), "-o", str(tmp_path / "new")])
    assert alone.exit_code == 2 and "--base" in alone.stderr
