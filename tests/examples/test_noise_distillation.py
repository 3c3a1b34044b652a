from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lightning_flip import cli
from lightning_flip.cli.experiment import _distill
from lightning_flip.cli.experiment._plan import read_plan
from lightning_flip.cli.experiment._stage import resolve_config
from lightning_flip.models import load_model
from lightning_flip.stores import read_history

NOISE = Path(__file__).resolve().parents[2] / "examples" / "noise"
FOLDER = NOISE / "distillation"
STUDENTS = ("plain", "smoothed", "corrected")
TEACHERS = {"plain": "Classifier", "smoothed": "LabelSmoothingClassifier", "corrected": "ForwardCorrectionClassifier"}
PAIRS = [(teacher, student) for teacher in TEACHERS for student in STUDENTS]

pytestmark = [
    # On two batches a cosine of 30 epochs, or a logging interval of 20 steps, has no meaning.
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def content(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_every_file_is_a_student_or_a_pair(noise_script):
    script = noise_script("distillation")
    assert tuple(script.STUDENTS) == STUDENTS
    assert {path.stem for path in FOLDER.iterdir()} == {*STUDENTS, *("_to_".join(pair) for pair in PAIRS)}
    for teacher, student in PAIRS:
        plan = read_plan(str(FOLDER / f"{teacher}_to_{student}.yaml"))
        assert plan.teacher.resolve() == NOISE / f"{script.TEACHERS[teacher]}.yaml"
        assert plan.student.resolve() == FOLDER / f"{student}.yaml"
        assert plan.handed_over == Path(f"runs/noise-distillation/{teacher}_to_{student}/teacher/last.ckpt")


def test_students_differ_from_plain_training_in_their_loss_alone_and_know_the_noise():
    def shared(path: Path) -> tuple[dict, dict]:
        config = content(path)
        model = config["model"].pop("init_args")
        config["model"] = {name: model.pop(name) for name in ("network", "num_classes", "optimizer", "lr_scheduler")}
        del config["seed_everything"], config["trainer"]["logger"]["init_args"]["name"]
        return config, model

    expected, _ = shared(NOISE / "standard.yaml")
    amount = pytest.approx(expected["data"]["init_args"]["noise_rate"] * 10 / 9, abs=1e-4)
    own = {"plain": {}, "smoothed": {"kd_smoothing": amount}, "corrected": {"kd_correction_alpha": amount}}
    for student in STUDENTS:
        assert shared(FOLDER / f"{student}.yaml") == (expected, {"kd_temperature": 1.0, **own[student]})
        assert (
            content(FOLDER / f"{student}.yaml")["seed_everything"]
            != content(NOISE / "standard.yaml")["seed_everything"]
        )


@pytest.fixture(scope="module")
def shortened(tmp_path_factory) -> Path:
    """Copies of all files, of one short epoch on the CPU."""
    folder = tmp_path_factory.mktemp("noise")
    (folder / "distillation").mkdir()
    short = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "accelerator": "cpu"}
    for path in [*NOISE.glob("*.yaml"), *FOLDER.glob("*.yaml")]:
        config = content(path)
        if "trainer" in config:
            config["trainer"] |= {**short, "enable_progress_bar": False}
        (folder / path.relative_to(NOISE)).write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "distillation"


@pytest.fixture(scope="module")
def known() -> dict[str, dict]:
    return {}


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_a_pair_trains_and_the_student_asks_its_teacher(teacher, student, shortened, known, monkeypatch):
    # Nine pairs are of six configurations, and reading one takes longer than training on it.
    def read(path: Path) -> dict:
        if path.name not in known:
            known[path.name] = resolve_config(path)
        return known[path.name]

    monkeypatch.setattr(_distill, "resolve_config", read)
    name = f"{teacher}_to_{student}"
    assert cli.main(["experiment", "distill", f"--config={shortened / name}.yaml"]) == 0
    out = Path("runs/noise-distillation") / name
    asked = content(out / "student.yaml")["model"]["init_args"]["reference"]
    assert Path(asked) == (out / "teacher" / "last.ckpt").absolute()
    # The teacher is of another class than the student, and its checkpoint says of which.
    assert type(load_model(asked)).__name__ == TEACHERS[teacher]
    assert type(load_model(out / "student" / "last.ckpt")).__name__ == "DistillationClassifier"
    assert read_history(out / "student" / f"{student}_student" / "version_0").passes("train") == [(0, 0)]


def test_the_tables_are_of_the_trained_models(noise_script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    script = noise_script("distillation")
    teachers = ("plain", "corrected")
    monkeypatch.setattr(script, "TEACHERS", {teacher: script.TEACHERS[teacher] for teacher in teachers})
    script.main(["--epochs", "1", "--seeds", "1", "--out", "all", "--temperature", "2", "--markdown"])
    seen = capsys.readouterr()
    assert seen.err == ""
    assert "temperature 2," in seen.out
    rows = [line.strip("| ").split(" | ") for line in seen.out.splitlines() if line.startswith("| ")]
    tables = rows[:4], rows[4:]
    data = cli.training_cli([f"--config={NOISE / 'standard.yaml'}"], run=False, save_config_callback=None).datamodule
    data.setup("fit")
    data.setup("test")
    for table, (name, title) in zip(tables, script.MEASURES.items(), strict=True):
        assert table[0] == [title, *script.COLUMNS]
        assert [row[0] for row in table[2:]] == [f"{teacher} teacher" for teacher in teachers]
        for teacher, row in zip(teachers, table[2:], strict=True):
            model = load_model(f"all/seed-0/{teacher}.ckpt")
            assert type(model).__name__ == TEACHERS[teacher]
            assert row[1] == f"{script.measure(model, data)[name]:.1f}"


def test_each_student_of_the_table_has_its_teacher_and_the_temperature(noise_script, capsys, monkeypatch):
    script = noise_script("distillation")
    calls = []

    class Trained:
        model = datamodule = trainer = None

        def __init__(self, place: int) -> None:
            self.model = place
            self.trainer = self

        def save_checkpoint(self, path: Path) -> None:
            calls[self.model].append(path)

    def train(config, folder, seed, epochs, progress, options=()):
        calls.append([config, seed, list(options)])
        return Trained(len(calls) - 1)

    monkeypatch.setattr(script, "train", train)
    monkeypatch.setattr(script, "measure", lambda model, data: {"test": float(model), "ece": 100.0 - model})
    script.main(["--seeds", "2", "--out", "all", "--temperature", "3", "--markdown"])
    assert len(calls) == 2 * len(TEACHERS) * (1 + len(STUDENTS))
    places = iter(range(len(calls)))
    for seed in (0, 1):
        for teacher in TEACHERS:
            config, teacher_seed, options, checkpoint = calls[next(places)]
            assert (config, teacher_seed, options) == (script.TEACHERS[teacher], seed, [])
            for student in STUDENTS:
                config, student_seed, options = calls[next(places)]
                assert config == f"distillation/{student}"
                assert student_seed not in (0, 1)
                model = "--model.init_args"
                assert options == [f"{model}.reference={checkpoint}", f"{model}.kd_temperature=3.0"]
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    # The first seed's twelve fits are numbered 0 to 11, the second one's 12 to 23.
    assert [row[1:] for row in rows[2:5]] == [[f"{4 * i + j + 6:.1f} ± 8.5" for j in range(4)] for i in range(3)]
    assert rows[7][1:] == [f"{94 - j:.1f} ± 8.5" for j in range(4)]


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--temperature", "0"], ["--temperature", "inf"]])
def test_the_script_refuses_nonsense(noise_script, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        noise_script("distillation").main(words)
    assert exit_.value.code == 2
    assert "must be " in capsys.readouterr().err


def test_the_tables_in_the_readme_are_of_this_form(noise_script):
    script = noise_script("distillation")
    text = (NOISE / "README.md").read_text(encoding="utf-8")
    for title, times in zip(script.MEASURES.values(), (2, 1), strict=True):
        rows = "".join(rf"\| {teacher} teacher( \| \d+\.\d ± \d\.\d){{4}} \|\n" for teacher in TEACHERS)
        header = re.escape(f"| {' | '.join([title, *script.COLUMNS])} |\n| :--- | ---: | ---: | ---: | ---: |\n")
        assert len(re.findall(header + rows, text)) == times
