"""What a stage took is kept beside the project's results, in none of them."""

import pytest

from tattoo_lora import times


def test_times_are_those_of_stages_that_dvc_ran_and_that_ended_well(tmp_path, monkeypatch):
    monkeypatch.setattr(times, "FOLDER", tmp_path / "times")
    monkeypatch.delenv("DVC_STAGE", raising=False)
    with times.recorded_time():
        pass  # by hand
    assert times.read_times() == {}
    for stage in ("encode", "train@blip", "report"):
        monkeypatch.setenv("DVC_STAGE", stage)
        with times.recorded_time():
            pass
    monkeypatch.setenv("DVC_STAGE", "enrich")
    with pytest.raises(SystemExit), times.recorded_time():
        raise SystemExit(1)
    assert list(times.read_times()) == ["encode", "train@blip", "report"]
