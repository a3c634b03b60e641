"""What training means: the same weights however it is cut up, and an orderly end whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from regard.errors import UserError
from regard.training import Interrupted, Run
from regard.training.tensors import unpack

SCRIPT = Path(__file__).with_name("copy_task.py")
CLOCK = ("seconds", "tokens_per_second")


def values(run: Run, kind: str | None = None) -> list[dict[str, Any]]:
    """The records without what the clock says."""
    records = [record for record in run.records() if kind in (None, record["kind"])]
    return [{name: value for name, value in record.items() if name not in CLOCK} for record in records]


def assert_same_run(one: Run, other: Run) -> None:
    assert values(one) == values(other)
    for name in ("model.safetensors", "model.json"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


def script(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def whole(task: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run."""
    return task.train(tmp_path_factory.mktemp("whole") / "run", checkpoint_every=7, keep=2)[2]


def test_training_learns_and_records(whole: Run) -> None:
    train = [record["loss"] for record in whole.records() if record["kind"] == "train"]
    evaluation = [record for record in whole.records() if record["kind"] == "evaluation"]
    assert train[-1] < train[0]
    assert [(record["step"], record["epoch"]) for record in evaluation] == [
        (12, 1),
        (24, 2),
        (36, 3),
        (48, 4),
    ]
    assert {"loss", "accuracy", "learning_rate", "gradient_norm", "tokens_per_second"} <= set(
        whole.records()[0]
    )
    assert 0 <= whole.records()[0]["accuracy"] <= 1


def test_the_model_of_a_run_loads_without_its_training(whole: Run, task: ModuleType) -> None:
    model = task.Copier()
    description = Run.open(whole.path).load_model(model)
    model.eval()
    best = min(record["loss"] for record in whole.records() if record["kind"] == "evaluation")
    assert task.evaluate(model)["loss"] == description["metrics"]["loss"] == best
    assert description["weights"] == "best"


def test_killed_twice_and_resumed_is_bit_for_bit_the_uninterrupted_run(
    whole: Run, task: ModuleType, tmp_path: Path
):
    path = tmp_path / "run"
    killed = script(path, "--kill-in-step", 18)  # the last checkpoint is that of step 14
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(one.name for one in (path / "checkpoints").iterdir()) == ["step-000012", "step-000014"]
    killed = script(path, "--resume", "--kill-in-checkpoint", 24)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (path / "checkpoints" / ".step-000024.partial").exists()
    _, result, run = task.train(path, resume=True)
    assert (result.reason, result.step) == ("epochs", 48)
    assert_same_run(run, whole)
    assert not list(path.rglob("*.partial"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_finishes_the_step_and_resumes_exactly(
    whole: Run, task: ModuleType, tmp_path: Path, number: int
) -> None:
    calls = []

    def loss(model: Any, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 17:
            os.kill(os.getpid(), number)
        return task.noisy_loss(model, batch)

    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=r"go on with: regard train --resume .*run") as stopped:
        task.train(tmp_path / "run", loss=loss, checkpoint_every=7, keep=2)
    assert stopped.value.code == 130
    assert handlers == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert (tmp_path / "run/checkpoints/step-000018").exists() or (
        tmp_path / "run/checkpoints/step-000017"
    ).exists()
    assert_same_run(task.train(tmp_path / "run", resume=True)[2], whole)


def test_a_second_ctrl_c_stops_at_once(task: ModuleType, tmp_path: Path) -> None:
    def loss(model: Any, batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        task.train(tmp_path / "run", loss=loss)


def test_resuming_a_finished_run_changes_nothing(whole: Run, task: ModuleType) -> None:
    before = values(whole), (whole.path / "model.safetensors").read_bytes()
    _, result, run = task.train(whole.path, resume=True)
    assert result.reason == "epochs"
    assert (values(run), (run.path / "model.safetensors").read_bytes()) == before


def test_a_resumed_run_may_get_a_larger_budget(whole: Run, task: ModuleType, tmp_path: Path) -> None:
    task.train(tmp_path / "run", checkpoint_every=7, keep=2, epochs=2)
    assert_same_run(task.train(tmp_path / "run", resume=True, epochs=4)[2], whole)


def test_resuming_with_other_data_is_refused(task: ModuleType, tmp_path: Path) -> None:
    task.train(tmp_path / "run", epochs=1)
    with pytest.raises(UserError, match="trained with 12 batches an epoch, but there are 10 now"):
        task.train(tmp_path / "run", resume=True, epochs=2, batches=task.Batches(rows=40))


def test_evaluating_does_not_change_training(whole: Run, task: ModuleType, tmp_path: Path) -> None:
    _, _, run = task.train(tmp_path / "run", evaluate_every=3, checkpoint_every=5)
    last = whole.checkpoints / "step-000048" / "model.safetensors"
    assert last.read_bytes() == (run.checkpoints / "step-000048" / "model.safetensors").read_bytes()


def test_a_trained_run_is_not_trained_over(whole: Run, task: ModuleType) -> None:
    with pytest.raises(UserError, match=r"already exists: .*--resume"):
        task.train(whole.path)


def test_accumulated_gradients_equal_the_large_batch(task: ModuleType, tmp_path: Path) -> None:
    def final(name: str, rows: int, accumulate: int) -> torch.Tensor:
        batches = task.Batches(per_batch=rows)
        given = {"batches": batches, "loss": task.plain_loss, "model": task.Copier(dropout=0.0)}
        run = task.train(tmp_path / name, accumulate=accumulate, **given)[2]
        assert [record["step"] for record in values(run, "evaluation")] == [6, 12, 18, 24]
        return unpack(run.checkpoints / "step-000024" / "model.safetensors")["middle.weight"]

    # 45 rows: the last update of an epoch has a part of a group, and a short batch in it
    torch.testing.assert_close(final("many", 4, 2), final("large", 8, 1), rtol=1e-4, atol=1e-5)


def test_two_processes_learn_what_one_does(task: ModuleType, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*launch, str(SCRIPT), str(tmp_path / "two"), "--plain"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    given = {"loss": task.plain_loss, "model": task.Copier(dropout=0.0), "checkpoint_every": 7}
    one = task.train(tmp_path / "one", **given)[2]
    two = Run.open(tmp_path / "two")
    for mine, theirs in zip(values(one), values(two), strict=True):
        assert mine.pop("kind") == theirs.pop("kind")
        assert mine == pytest.approx(theirs, rel=1e-4)
    ours, others = (unpack(run.path / "model.safetensors") for run in (one, two))
    torch.testing.assert_close(ours, others, rtol=1e-3, atol=1e-4)
    [last] = [path for path in two.checkpoints.iterdir() if path.name == "step-000048"]
    assert len(json.loads((last / "processes.json").read_text())) == 2


def test_patience_ends_training_after_evaluations_without_a_better_metric(
    task: ModuleType, tmp_path: Path
) -> None:
    losses = iter([3.0, 1.0, 2.0, float("nan"), 1.0, 0.5])
    _, result, run = task.train(
        tmp_path / "run",
        evaluate=lambda model: {"loss": next(losses)},
        evaluate_every=2,
        patience=3,
        epochs=9,
    )
    assert (result.reason, result.step, result.best) == ("patience", 10, 1.0)
    assert [record["loss"] for record in values(run, "evaluation")] == [3.0, 1.0, 2.0, None, 1.0]
    assert json.loads((run.path / "model.json").read_text())["step"] == 4


def test_the_best_weights_are_those_of_the_best_evaluation(task: ModuleType, tmp_path: Path) -> None:
    seen = []

    def evaluate(model: Any) -> dict[str, float]:
        seen.append(model.middle.weight.detach().clone())
        return {"loss": [3.0, 1.0, 2.0, 4.0][len(seen) - 1]}

    model, _, _ = task.train(tmp_path / "run", evaluate=evaluate)
    assert torch.equal(model.middle.weight, seen[1])
    assert not model.training


@pytest.mark.parametrize(("of", "members"), [("best", (0, 2)), ("last", (2, 3))])
def test_the_average_is_the_mean_of_checkpoints(
    task: ModuleType, tmp_path: Path, of: str, members: tuple[int, int]
):
    seen: list[torch.Tensor] = []

    def evaluate(model: Any) -> dict[str, float]:
        seen.append(model.middle.weight.detach().clone())
        return {
            "loss": [1.0, 5.0, 2.0, 4.0, 1.0][len(seen) - 1]
        }  # the last is the average: no worse than the best

    model, _, run = task.train(tmp_path / "run", evaluate=evaluate, average=2, average_of=of)
    mean = (seen[members[0]].double() + seen[members[1]].double()) / 2
    assert torch.equal(model.middle.weight, mean.float())
    assert json.loads((run.path / "model.json").read_text())["weights"] == "average"
    assert [record["checkpoints"] for record in values(run, "average")] == [2]


def test_an_average_worse_than_the_best_checkpoint_is_not_used(task: ModuleType, tmp_path: Path) -> None:
    losses = iter([3.0, 1.0, 2.0, 4.0, 1.5])
    _, _, run = task.train(tmp_path / "run", evaluate=lambda model: {"loss": next(losses)}, average=3)
    description = json.loads((run.path / "model.json").read_text())
    assert (description["weights"], description["step"]) == ("best", 24)


def test_a_loss_that_is_not_a_number_stops_training_and_spares_the_checkpoint(
    task: ModuleType, tmp_path: Path
):
    calls = []

    def loss(model: Any, batch: Any) -> Any:
        calls.append(batch)
        total, tokens, extras = task.noisy_loss(model, batch)
        return (total * float("nan") if len(calls) == 20 else total), tokens, extras

    expected = r"step 20: the loss is not a finite number at learning rate 0.0\d+; .*step-000014, is intact"
    with pytest.raises(UserError, match=expected):
        task.train(tmp_path / "run", loss=loss, checkpoint_every=7)
    weights = unpack(tmp_path / "run/checkpoints/step-000014/model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in weights.values())


def test_float16_skips_a_step_that_overflows(task: ModuleType, tmp_path: Path) -> None:
    calls = []

    def loss(model: Any, batch: Any) -> Any:
        calls.append(batch)
        total, tokens, extras = task.noisy_loss(model, batch)
        return (total * float("inf") if len(calls) == 3 else total), tokens, extras

    _, result, run = task.train(tmp_path / "run", loss=loss, precision="float16", max_tokens=24)
    assert result.step == 48
    losses = [record["loss"] for record in values(run, "train")]
    assert losses[-1] < losses[0]
    state = json.loads((run.checkpoints / "step-000048" / "state.json").read_text())
    assert state["scaler"]["scale"] <= 2**16 / 2**5 / 2  # for 24 tokens it began at 2 ** 11


def test_bfloat16_trains_close_to_float32(whole: Run, task: ModuleType, tmp_path: Path) -> None:
    _, result, _ = task.train(tmp_path / "run", precision="bfloat16")
    best = min(record["loss"] for record in whole.records() if record["kind"] == "evaluation")
    assert result.best == pytest.approx(best, rel=0.05)


def test_the_seconds_of_the_budget_end_training(task: ModuleType, tmp_path: Path) -> None:
    _, result, run = task.train(tmp_path / "run", seconds=0.3, epochs=10_000, schedule="cosine")
    assert result.reason == "seconds"
    assert 0.3 <= result.seconds < 10
    assert values(run, "evaluation")[-1]["step"] == result.step


def test_checkpoints_by_the_clock(task: ModuleType, tmp_path: Path) -> None:
    _, _, run = task.train(tmp_path / "run", checkpoint_seconds=1e-6, keep=100, epochs=1)
    assert len(list(run.checkpoints.iterdir())) == 12


def test_matrices_decay_and_vectors_do_not(task: ModuleType, tmp_path: Path) -> None:
    def loss(model: Any, batch: Any) -> Any:
        total = 0.0 * sum(parameter.sum() for parameter in model.parameters())
        return total, 1, {}

    given = {"loss": loss, "schedule": "constant", "learning_rate": 0.1, "weight_decay": 0.5, "steps": 1}
    fresh, (model, _, _) = task.Copier(), task.train(tmp_path / "run", **given)
    torch.testing.assert_close(model.middle.weight, fresh.middle.weight * 0.95)
    assert torch.equal(model.middle.bias, fresh.middle.bias)


def test_no_budget_is_an_error(task: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one of epochs, steps and seconds"):
        task.train(tmp_path / "run", epochs=None)


def test_a_device_that_is_not_here_is_an_error(task: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device is 'nowhere', which is not here"):
        task.train(tmp_path / "run", device="nowhere")


def test_the_device_is_found_where_none_is_named(task: ModuleType, tmp_path: Path) -> None:
    assert task.train(tmp_path / "run", device="auto", epochs=1)[1].reason == "epochs"


def test_tensorboard_files_on_request(task: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    task.train(tmp_path / "run", tensorboard=True, epochs=1)
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_without_tensorboard_one_sentence_says_so(
    task: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        task.train(tmp_path / "run", tensorboard=True)
