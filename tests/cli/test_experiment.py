from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml

from lightning_flip import cli
from lightning_flip.cli._outputs import CommandError
from lightning_flip.cli.experiment import _distill as distilling
from lightning_flip.cli.experiment._stage import resolve_config
from lightning_flip.cli.experiment._state import differences, read_state
from lightning_flip.stores import read_soft_targets

pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning's own call
    pytest.mark.filterwarnings(r"ignore:(?s)\s*(By default|.*deprecated in v4\.):DeprecationWarning"),  # too
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # depends on the machine's cores
]


class Killed(pl.Callback):
    """Ends its process where the environment says: stage, hook, epoch."""

    def _here(self, hook: str, trainer: pl.Trainer) -> None:
        if os.environ.get("KILL") == f"{Path(trainer.default_root_dir).name} {hook} {trainer.current_epoch}":
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 1:
            self._here("batch", trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        self._here("epoch", trainer)

    def on_fit_end(self, trainer, pl_module):
        self._here("end", trainer)


TRAINER = {
    "max_epochs": 3,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
    "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "elsewhere"}},
}
MODEL = {
    "network": {"class_path": "lightning_flip.models.MLP", "init_args": {"in_features": 4, "num_classes": 3}},
    "num_classes": 3,
    "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 3}},
}
DATA = {
    "class_path": "lightning_flip.data.IrisDataModule",
    "init_args": {"batch_size": 16, "val_size": 30, "noise_rate": 0.4},
}
FILTER = {"class_path": "lightning_flip.callbacks.PredictionFilter", "init_args": {"also": ["eval_best", "eval_last"]}}
KILLED = {"class_path": "tests.cli.test_experiment.Killed"}


def write(name: str, content: dict) -> None:
    Path(name).write_text(yaml.safe_dump(content))


@pytest.fixture
def configs(tmp_path) -> Path:
    """teacher.yaml, student.yaml, online.yaml, and experiments over them, not in the current folder."""
    folder = tmp_path / "configs"
    folder.mkdir()

    def fit(name: str, model: str, callbacks: list, **options) -> None:
        content = {
            "seed_everything": 7 if name == "teacher" else 8,
            "trainer": {**TRAINER, "callbacks": [*callbacks, KILLED]},
            "model": {"class_path": f"lightning_flip.{model}", "init_args": {**MODEL, **options}},
            "data": DATA,
        }
        write(f"{folder}/{name}.yaml", content)

    fit("teacher", "models.Classifier", [FILTER])
    fit("student", "modules.SoftTargetsClassifier", [])
    fit("online", "modules.DistillationClassifier", [])
    both = {"teacher": "teacher.yaml", "student": "student.yaml"}
    write(f"{folder}/filterkd.yaml", {**both, "soft_targets": "filtered_best", "output": "out"})
    write(f"{folder}/kd.yaml", {**both, "soft_targets": "eval_last.safetensors", "output": "out"})
    write(f"{folder}/online_kd.yaml", {**both, "student": "online.yaml", "reference": "last.ckpt", "output": "out"})
    return folder


@pytest.fixture
def read_once(monkeypatch) -> None:
    """Reading a configuration takes longer than training on it."""
    known: dict[str, dict] = {}

    def read(path: Path) -> dict:
        text = path.read_text()
        if text not in known:
            known[text] = resolve_config(path)
        return known[text]

    monkeypatch.setattr(distilling, "resolve_config", read)


def change(path: Path, *keys: str, to: object) -> None:
    content = yaml.safe_load(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(yaml.safe_dump(content))


def distill(config: Path, *words: str) -> int:
    return cli.main(["experiment", "distill", "--config", str(config), *words])


def weights(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def in_a_process_that_is_killed(config: Path, where: str) -> None:
    pid = os.fork()
    if not pid:
        os.environ["KILL"] = where
        try:
            distill(config)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


class TestTraining:
    def test_both_stages_are_what_their_own_fit_makes_of_them(self, configs, capsys):
        assert distill(configs / "filterkd.yaml") == 0
        out = capsys.readouterr().out
        assert "teacher: training, in out/teacher" in out
        targets = "out/teacher/soft_targets/filtered_best.safetensors"
        for name, more in (("teacher", []), ("student", [f"--model.init_args.targets={targets}"])):
            plain = [f"--trainer.default_root_dir=plain/{name}", "--trainer.logger=false"]
            built = cli.training_cli(["fit", f"--config={configs / name}.yaml", *plain, *more])
            assert same(weights(f"out/{name}/last.ckpt"), built.model.state_dict())
        run = Path("plain/teacher/prediction_history/version_0")
        own = read_soft_targets(run / "soft_targets" / "filtered_best.safetensors").probs
        assert (read_soft_targets(targets).probs == own).all()
        state = json.loads(Path("out/experiment.json").read_text())
        assert [stage["finished"] for stage in state["stages"].values()] == [True, True]
        assert not Path("elsewhere").exists()
        # The configuration that a stage leaves trains it once more, and the words at the end evaluate the student.
        before = weights("out/student/last.ckpt")
        assert cli.main(["fit", "--config", "out/student.yaml"]) == 0
        assert same(weights("out/student/last.ckpt"), before)
        (words,) = (line.split()[1:] for line in out.splitlines() if line.startswith("  lightning-flip test"))
        assert cli.main(words) == 0

    def test_the_file_is_the_one_that_was_named(self, configs):
        assert distill(configs / "filterkd.yaml", "--output", "a") == 0
        assert distill(configs / "kd.yaml", "--output", "b") == 0
        assert same(weights("a/teacher/last.ckpt"), weights("b/teacher/last.ckpt"))
        assert not same(weights("a/student/last.ckpt"), weights("b/student/last.ckpt"))
        saved = yaml.safe_load(Path("b/student.yaml").read_text())
        assert saved["model"]["init_args"]["targets"].endswith("b/teacher/soft_targets/eval_last.safetensors")

    def test_an_online_teacher(self, configs):
        assert distill(configs / "online_kd.yaml") == 0
        saved = yaml.safe_load(Path("out/student.yaml").read_text())
        assert saved["model"]["init_args"]["reference"] == str(Path("out/teacher/last.ckpt").absolute())

    def test_folders_become_the_stages(self, configs):
        record = {"class_path": "lightning_flip.callbacks.PredictionHistory", "init_args": {"dirpath": "elsewhere"}}
        best = {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": "elsewhere", "filename": "best", "monitor": "val_acc", "mode": "max"},
        }
        change(configs / "teacher.yaml", "trainer", "callbacks", to=[record, FILTER, best])
        change(configs / "online_kd.yaml", "reference", to="best.ckpt")
        assert distill(configs / "online_kd.yaml") == 0
        assert not Path("elsewhere").exists()
        assert {"run.json", "best.ckpt", "last.ckpt", "soft_targets"} <= {p.name for p in Path("out/teacher").iterdir()}

    def test_switches_of_the_teachers_trainer_are_not_the_students(self, configs):
        change(configs / "teacher.yaml", "trainer", "deterministic", to=True)
        assert distill(configs / "filterkd.yaml") == 0
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("read_once")
@pytest.mark.skipif(sys.platform == "win32", reason="forks and kills")
class TestKilled:
    def test_an_experiment_that_is_killed_everywhere_ends_as_one_that_ran_through(self, configs, capfd):
        config = configs / "filterkd.yaml"
        # Where it is killed, and what the next attempt says of the stages.
        story = [
            ("teacher batch 0", ["teacher: training"]),
            ("teacher epoch 0", ["teacher: training"]),  # soft targets lie there, and no checkpoint
            ("teacher batch 2", ["teacher: training"]),
            ("teacher end 3", ["teacher: resuming"]),
            ("student batch 0", ["teacher: resuming", "student: training"]),
            ("student batch 1", ["teacher: finished before", "student: training"]),
            ("student end 3", ["teacher: finished before", "student: resuming"]),
        ]
        for where, said in story:
            capfd.readouterr()
            in_a_process_that_is_killed(config, where)
            before = [line.partition(",")[0] for line in capfd.readouterr().out.splitlines()]
            assert [line for line in before if line.startswith(("teacher:", "student:"))] == said, where
        trained = Path("out/teacher/last.ckpt").stat().st_mtime_ns
        assert distill(config) == 0
        assert "student: resuming" in capfd.readouterr().out
        assert Path("out/teacher/last.ckpt").stat().st_mtime_ns == trained
        assert distill(config, "--output", "whole") == 0
        for name in ("teacher", "student"):
            assert same(weights(f"out/{name}/last.ckpt"), weights(f"whole/{name}/last.ckpt"))
        for name in ("filtered_best", "filtered_last", "eval_best", "eval_last"):
            left, right = (
                read_soft_targets(f"{folder}/teacher/soft_targets/{name}.safetensors") for folder in ("out", "whole")
            )
            assert (left.probs == right.probs).all()

    def test_a_checkpoint_is_whole_whenever_the_process_is_killed(self, configs, monkeypatch):
        real = os.replace

        def killed(source, target):
            if str(target).endswith("last.ckpt") and Path(target).exists():
                Path(source).write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            in_a_process_that_is_killed(configs / "filterkd.yaml", "")
        assert torch.load("out/teacher/last.ckpt", weights_only=True)["epoch"] == 0
        assert distill(configs / "filterkd.yaml") == 0

    def test_early_stopping_stays_stopped(self, configs, capfd):
        stop = {
            "class_path": "lightning.pytorch.callbacks.EarlyStopping",
            "init_args": {"monitor": "val_loss", "patience": 0, "min_delta": 100.0},
        }
        change(configs / "teacher.yaml", "trainer", "callbacks", to=[FILTER, stop, KILLED])
        in_a_process_that_is_killed(configs / "filterkd.yaml", "teacher end 2")
        steps = torch.load("out/teacher/last.ckpt", weights_only=True)["global_step"]
        assert distill(configs / "filterkd.yaml") == 0
        assert "teacher: resuming" in capfd.readouterr().out
        assert torch.load("out/teacher/last.ckpt", weights_only=True)["global_step"] == steps


@pytest.mark.usefixtures("read_once")
class TestGoingOn:
    def test_changed_settings_are_told_and_restarted(self, configs, capsys):
        assert distill(configs / "filterkd.yaml") == 0
        teacher, student = (Path(f"out/{name}/last.ckpt") for name in ("teacher", "student"))
        before = weights(student)
        trained = teacher.stat().st_mtime_ns
        # Nothing changed: nothing to do.
        times = [path.stat().st_mtime_ns for path in (teacher, student)]
        capsys.readouterr()
        assert distill(configs / "filterkd.yaml") == 0
        assert capsys.readouterr().out.count("finished before") == 2
        assert times == [path.stat().st_mtime_ns for path in (teacher, student)]
        # The student alone.
        change(configs / "student.yaml", "seed_everything", to=9)
        assert distill(configs / "filterkd.yaml") == 2
        told = capsys.readouterr().err
        assert "student: seed_everything was 8 and is 9" in told
        assert "--restart student" in told
        assert same(weights(student), before)
        assert distill(configs / "filterkd.yaml", "--restart", "student") == 0
        assert teacher.stat().st_mtime_ns == trained
        assert not same(weights(student), before)
        # Another file for it.
        change(configs / "filterkd.yaml", "soft_targets", to="filtered_last")
        assert distill(configs / "filterkd.yaml") == 2
        assert 'student: soft_targets was "filtered_best" and is "filtered_last"' in capsys.readouterr().err
        change(configs / "filterkd.yaml", "soft_targets", to="filtered_best")
        # The teacher.
        change(configs / "teacher.yaml", "model", "init_args", "network", "init_args", "hidden", to=[8])
        for words in ((), ("--restart", "student")):
            assert distill(configs / "filterkd.yaml", *words) == 2
            told = capsys.readouterr().err
            assert "teacher: model.init_args.network.init_args.hidden was" in told
            assert "--restart student" not in told
        assert teacher.stat().st_mtime_ns == trained
        assert distill(configs / "filterkd.yaml", "--restart") == 0
        assert teacher.stat().st_mtime_ns != trained

    def test_what_the_teacher_left_is_damaged_or_gone(self, configs, capsys):
        in_a_process_that_is_killed(configs / "filterkd.yaml", "student batch 0")
        left = Path("out/teacher/soft_targets/filtered_best.safetensors")
        left.write_bytes(left.read_bytes()[:-8])
        assert distill(configs / "filterkd.yaml") == 2
        assert "cut off or damaged" in capsys.readouterr().err
        left.unlink()
        assert distill(configs / "filterkd.yaml") == 2
        assert f"did not leave {left}" in capsys.readouterr().err

    def test_folders_that_are_not_the_experiments_are_left_alone(self, configs, capsys):
        Path("out/teacher").mkdir(parents=True)
        Path("out/teacher/thesis.txt").write_text("years of work")
        for words in ((), ("--restart",)):
            assert distill(configs / "filterkd.yaml", *words) == 2
            assert "out/teacher holds files" in capsys.readouterr().err
        assert Path("out/teacher/thesis.txt").exists()

    @pytest.mark.parametrize(
        "text",
        ["{", '{"stages": 1, "format_version": 1}', "[]", '{"format_version": 9, "stages": {}}', '{"stages": {}}'],
    )
    def test_a_damaged_state(self, tmp_path, text):
        (tmp_path / "experiment.json").write_text(text)
        with pytest.raises(CommandError, match=r"experiment\.json (is damaged|has format version 9)"):
            read_state(tmp_path)

    def test_a_configuration_may_start_from_a_checkpoint(self, configs):
        assert "ckpt_path" not in resolve_config(configs / "teacher.yaml")
        content = yaml.safe_load((configs / "teacher.yaml").read_text())
        write("other.yaml", {**content, "ckpt_path": "before.ckpt"})
        assert resolve_config(Path("other.yaml"))["ckpt_path"] == "before.ckpt"

    def test_differences(self):
        assert differences({"a": [1, 2], "b": None}, {"a": [1, 3], "c": None}) == ["a.1 was 2 and is 3"]
        assert differences({"a": [1]}, {"a": [1, 2]}) == ["a was [1] and is [1, 2]"]


class TestMistakes:
    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ({"student": "nothing"}, "must name the configurations"),
            ({"soft_target": "filtered_best"}, "unknown: soft_target"),
            ({"soft_targets": None}, "it says neither"),
            ({"reference": "last.ckpt"}, "it says both"),
            ({"soft_targets": 3}, "soft_targets must be a text"),
            ({"soft_targets": "../filtered_best"}, "that the experiment's teacher leaves"),
            ({"output": None}, "names no output"),
            ({"student": "nobody.yaml"}, "the student's configuration"),
            ({"soft_targets": "filtered_first"}, "the teacher leaves filtered_best, filtered_last, eval_best"),
            ({"teacher": "student.yaml"}, "Add lightning_flip.callbacks.PredictionFilter"),
            ({"student": "teacher.yaml"}, "has no option targets"),
        ],
    )
    def test_the_experiments_file(self, configs, capsys, content, told):
        base = yaml.safe_load((configs / "filterkd.yaml").read_text())
        changed = {**base, **content}
        write(f"{configs}/bad.yaml", {key: value for key, value in changed.items() if value != "nothing"})
        assert distill(configs / "bad.yaml") == 2
        assert told in capsys.readouterr().err
        assert not Path("out").exists()

    def test_no_file_and_no_yaml(self, configs, capsys):
        assert distill(configs / "none.yaml") == 2
        assert "No such file" in capsys.readouterr().err
        (configs / "bad.yaml").write_text("a: [")
        assert distill(configs / "bad.yaml") == 2
        assert "not a YAML" in capsys.readouterr().err

    def test_a_student_that_fit_would_refuse_is_told_before_the_teacher_trains(self, configs, capsys):
        change(configs / "student.yaml", "model", "init_args", "kd_wait", to=1.0)
        with pytest.raises(SystemExit) as exit_:
            distill(configs / "filterkd.yaml")
        assert exit_.value.code == 2
        assert "kd_wait" in capsys.readouterr().err
        assert not Path("out").exists()

    @pytest.mark.parametrize("words", [["experiment"], ["experiment", "distill"], ["experiment", "brew"]])
    def test_words_that_are_missing(self, words, capsys):
        with pytest.raises(SystemExit) as exit_:
            cli.main(words)
        assert exit_.value.code == 2
