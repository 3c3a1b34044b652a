"""The old model beside the one that trains: what it says, in which precision, where, and what it leaves untouched."""

import contextlib
import copy
import gc
import io
import multiprocessing.context
import os
import pickle
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_flip.models import MLP, Classifier, EnsembleClassifier
from lightning_flip.steps import Reference, SampleStep, StepSource, attach, load_reference

K = 3
N = 26
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(1))
Y = torch.randint(K, (N,), generator=torch.Generator().manual_seed(2))
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "devices": 1,
    "num_sanity_val_steps": 0,
    "max_epochs": 1,
}


class Noisy(nn.Module):
    """Everything that differs between training and evaluation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, K))

    def forward(self, x):
        return self.layers(x)


class Wrapped(pl.LightningModule):
    """Normalizes before its network: logits of its forward and of the network differ for the same input."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x * 2)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def old_network(seed=3):
    torch.manual_seed(seed)
    network = Noisy()
    with torch.no_grad():
        for _ in range(5):
            network(torch.randn(16, 4))  # running statistics of its own
    return network


def new_module(**options):
    torch.manual_seed(0)
    return Classifier(MLP(4, K, hidden=(8,)), num_classes=K, **options)


def said(network, x=X):
    """What it says in eval mode."""
    with torch.no_grad():
        return copy.deepcopy(network).eval()(x)


class Asking(pl.Callback):
    """Asks a reference in every step, after it."""

    def __init__(self, reference, logits_from=""):
        self.reference, self.source = reference, StepSource(logits_from)
        self.answers, self.undisturbed = {"train": [], "val": []}, []
        self.attachment = None

    def setup(self, trainer, pl_module, stage):
        self.attachment = attach(trainer, pl_module, self, self.source)
        self.reference.prepare(trainer)

    def ask(self, split):
        step = self.attachment.sample_step(self.source).recorded()
        caught = step.logits.clone()
        self.answers[split].append((step.index, self.reference.logits(step, self.attachment)))
        self.undisturbed.append(torch.equal(self.attachment.sample_step(self.source).recorded().logits, caught))

    def on_train_batch_end(self, *args):
        self.ask("train")

    def on_validation_batch_end(self, *args):
        self.ask("val")

    def on_exception(self, trainer, pl_module, exception):
        if self.attachment is not None:
            self.attachment.release(self)

    def teardown(self, trainer, pl_module, stage):
        self.attachment.release(self)

    def rows(self, split="train"):
        return tuple(torch.cat(parts) for parts in zip(*self.answers[split], strict=True))


def loader(**options):
    return DataLoader(TensorDataset(X, Y), batch_size=8, **options)


def fit(reference, module=None, logits_from="", **options):
    asking = Asking(reference, logits_from)
    trainer = pl.Trainer(**{**QUIET, "callbacks": [asking], **options})
    module = module or new_module()
    trainer.fit(module, loader(shuffle=True), loader())
    return asking


def step_of(x=X, index=None, num_samples=N, **options):
    index = torch.arange(len(x)) if index is None else index
    logits = torch.zeros(len(index), K)
    return SampleStep(index, logits, index % K, inputs=((x,), {}), num_samples=num_samples, **options)


class Anywhere:
    """An attachment for steps made by hand; counts how often it was paused."""

    pauses, running = 0, SimpleNamespace(moment="batch 0 of epoch 0")

    @contextlib.contextmanager
    def paused(self):
        self.pauses += 1
        yield


# -- a fit -----------------------------------------------------------------------------------------


def test_it_says_what_the_old_model_says_in_eval_mode():
    network = old_network()
    asking = fit(load_reference(network))
    for split in ("train", "val"):
        index, logits = asking.rows(split)
        assert sorted(index.tolist()) == list(range(N))
        torch.testing.assert_close(logits, said(network)[index], rtol=0, atol=1e-6)
        assert not logits.requires_grad
    assert all(asking.undisturbed)


def test_a_fit_leaves_the_old_model_as_it_was_bit_for_bit():
    network = old_network().train()
    reference = load_reference(network)
    before = {key: value.clone() for key, value in reference.source.state_dict().items()}
    given = {key: value.clone() for key, value in network.state_dict().items()}
    fit(reference)
    for key, value in reference.source.state_dict().items():
        assert torch.equal(value, before[key]), key
        assert torch.equal(network.state_dict()[key], given[key]), key
    assert all(part.training for part in network.modules())
    assert all(weight.requires_grad for weight in network.parameters())
    assert not any(weight.requires_grad for weight in reference.source.parameters())


def test_training_is_the_same_with_and_without_a_reference_bit_for_bit():
    networks = []
    for watched in (False, True):
        torch.manual_seed(7)
        module = new_module(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        module.network = nn.Sequential(nn.Dropout(0.5), module.network)  # draws in every step
        callbacks = [Asking(load_reference(old_network()))] if watched else []
        torch.manual_seed(8)
        trainer = pl.Trainer(**QUIET, callbacks=callbacks)
        trainer.fit(module, loader(shuffle=True), loader())
        networks.append(module.state_dict())
    assert all(torch.equal(value, networks[1][key]) for key, value in networks[0].items())


def test_the_owner_has_none_of_its_weights():
    module = new_module()
    module.reference = load_reference(old_network())
    plain = new_module()
    assert len(list(module.parameters())) == len(list(plain.parameters()))
    assert module.state_dict().keys() == plain.state_dict().keys()
    assert copy.deepcopy(module).reference is module.reference


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64), ("bf16-true", torch.bfloat16)]
)
def test_it_is_cast_as_the_trainer_casts_its_own(precision, dtype):
    network = old_network()
    reference = load_reference(network)
    asking = fit(reference, precision=precision)
    index, logits = asking.rows()
    assert logits.dtype == dtype
    expected = said(copy.deepcopy(network).to(dtype), X.to(dtype))[index]
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 1e-6)
    # What one fit rounded is not lost for the next.
    again = fit(reference, precision="32-true")
    index, logits = again.rows()
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, said(network)[index], rtol=0, atol=1e-6)


def test_a_callback_gets_the_autocast_of_the_step():
    network = old_network()
    asking = fit(load_reference(network), precision="bf16-mixed")
    index, logits = asking.rows()
    assert logits.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = said(network)[index]
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.05)


def test_an_autocast_that_is_on_already_is_the_one_that_counts():
    reference, attachment = load_reference(old_network()), Anywhere()
    assert reference.logits(step_of(), attachment).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.float16):
        assert reference.logits(step_of(), attachment).dtype == torch.float16
    assert attachment.pauses == 2


@pytest.mark.parametrize("compile", ["eager", True])
def test_it_is_compiled_when_asked(compile, monkeypatch):
    asked = []
    real = torch.compile

    def compiled(model, *, backend):
        asked.append(backend)
        return real(model, backend="eager")

    monkeypatch.setattr(torch, "compile", compiled)
    network = old_network()
    asking = fit(load_reference(network, compile=compile))
    index, logits = asking.rows()
    torch.testing.assert_close(logits, said(network)[index])
    assert asked == ["inductor" if compile is True else "eager"]


def test_preparing_again_for_the_same_trainer_does_nothing():
    reference = load_reference(old_network(), compile="eager")
    plugin = pl.plugins.precision.HalfPrecision("bf16-true")
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), precision_plugin=plugin)
    reference.prepare(trainer)
    run = reference._run
    reference.prepare(trainer)
    assert reference._run is run
    assert reference.source.layers[0].weight.dtype == torch.float32
    reference.release()
    assert reference._run is None
    assert reference.logits(step_of(), Anywhere()).dtype == torch.float32


class Ranked(Asking):
    def __init__(self, reference, folder):
        super().__init__(reference)
        self.folder = folder

    def teardown(self, trainer, pl_module, stage):
        super().teardown(trainer, pl_module, stage)
        index, logits = self.rows()
        weights = {key: value.clone() for key, value in self.reference.source.state_dict().items()}
        torch.save({"index": index, "logits": logits, "weights": weights}, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12 on fork
def test_two_ranks_ask_it_about_their_own_samples_without_padding(tmp_path):
    network = old_network()
    dataset = TensorDataset(X[:13], Y[:13])  # one rank repeats a sample
    trainer = pl.Trainer(
        **{**QUIET, "devices": 2, "strategy": "ddp_fork"}, callbacks=[Ranked(load_reference(network), tmp_path)]
    )
    trainer.fit(Wrapped(old_network(5)), DataLoader(dataset, batch_size=4, shuffle=True))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert sorted(torch.cat([rank["index"] for rank in ranks]).tolist()) == list(range(13))
    for rank in ranks:
        torch.testing.assert_close(rank["logits"], said(network)[rank["index"]], rtol=0, atol=1e-6)
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in rank["weights"].items())


def test_spawned_processes_get_their_own():
    network = old_network()
    reference = load_reference(network, logits_from="net", compile="eager")
    reference.logits(step_of(), Anywhere())
    again = pickle.loads(pickle.dumps(reference))
    assert (again.logits_from, again.compile, again._run) == ("net", "eager", None)
    torch.testing.assert_close(again.logits(step_of(), Anywhere()), said(network))


def test_what_is_sent_to_a_spawned_process_is_open_until_it_reads_it(tmp_path):
    """A copy that died as soon as it was pickled closed its memory, and ``ddp_spawn`` failed to start."""
    np.save(tmp_path / "old.npy", np.zeros((4, K), np.float32))
    descriptors = []

    class Process:
        """What the pickler sees of a process that is being spawned."""

        DupFd = staticmethod(lambda descriptor: descriptor)

        @staticmethod
        def duplicate_for_child(descriptor):
            descriptors.append(descriptor)
            return descriptor

    for source in (old_network(), str(tmp_path / "old.npy")):
        reference = load_reference(source)
        multiprocessing.context.set_spawning_popen(Process)
        try:
            ForkingPickler(io.BytesIO(), -1).dump(reference)
        finally:
            multiprocessing.context.set_spawning_popen(None)
        gc.collect()
        assert descriptors
        assert all(os.fstat(descriptor).st_size for descriptor in descriptors)  # a closed one raises OSError
        descriptors.clear()


def test_what_is_made_in_inference_mode_can_be_trained_with(tmp_path):
    np.save(tmp_path / "old.npy", np.ones((N, K), np.float16))
    for reference in (load_reference(old_network()), load_reference(tmp_path / "old.npy")):
        with torch.inference_mode():
            reference.logits(step_of(), Anywhere())
        new = torch.zeros(N, K, requires_grad=True)
        (new * reference.logits(step_of(), Anywhere())).sum().backward()
        assert new.grad.abs().sum() > 0


# -- which part runs, and on what -------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`|You passed in a `val_dataloader`")
def test_a_lightning_module_runs_where_logits_from_says():
    old = Wrapped(old_network())
    inner = fit(load_reference(old, logits_from="net"), Wrapped(old_network(5)), "net", limit_val_batches=0)
    index, logits = inner.rows()
    torch.testing.assert_close(logits, said(old)[index])
    outer = fit(load_reference(old), Wrapped(old_network(5)), limit_val_batches=0)
    index, logits = outer.rows()
    torch.testing.assert_close(logits, said(old)[index])
    # Not the module's forward for the inputs of a submodule, which are normalized already.
    got = load_reference(old, logits_from="net").logits(step_of(), Anywhere())
    torch.testing.assert_close(got, said(old.net))


@pytest.mark.parametrize("source", [old_network(), Classifier(old_network(), num_classes=K)])
def test_other_models_run_as_a_whole(source):
    got = load_reference(source, logits_from="layers.backbone").logits(step_of(), Anywhere())
    torch.testing.assert_close(got, said(source))


def test_a_network_with_a_submodule_of_that_name_runs_as_a_whole():
    network = old_network()
    got = load_reference(network, logits_from="layers.0").logits(step_of(), Anywhere())
    torch.testing.assert_close(got, said(network))


def test_features_of_the_new_model_are_refused():
    old = Classifier(MLP(4, K, hidden=(8,)), num_classes=K)
    with pytest.raises(
        ValueError, match=r"come from 'network\.classifier'.*given what 'network\..*on those features.*logits_from="
    ):
        fit(load_reference(old, logits_from="network.classifier"), None, "network.classifier")


def test_functions_have_no_inputs():
    with pytest.raises(TypeError, match="Name a submodule"):
        load_reference(old_network(), logits_from=lambda output: output)
    with pytest.raises(RuntimeError, match="logits_from"):
        load_reference(old_network()).logits(SampleStep(torch.arange(2), torch.zeros(2, K), torch.zeros(2)), Anywhere())


def test_inputs_that_are_optimized_get_no_gradient_from_it():
    x = X.clone().requires_grad_()
    assert not load_reference(old_network()).logits(step_of(x), Anywhere()).requires_grad


def test_keyword_inputs_are_passed_on():
    class Named(nn.Module):
        def forward(self, *, image):
            return {"logits": image[:, :K]}

    step = SampleStep(torch.arange(N), torch.zeros(N, K), Y, inputs=((), {"image": X}))
    assert torch.equal(load_reference(Named()).logits(step, Anywhere()), X[:, :K])


def test_padding_at_the_end_is_cut():
    network = old_network()
    step = step_of(X[:8], torch.arange(8), num_padding=2).recorded()
    got = load_reference(network).logits(step, Anywhere())
    torch.testing.assert_close(got, said(network, X[:8])[:6])


@pytest.mark.parametrize("output", [torch.zeros(N, K, 2), torch.zeros(2, K), "text"])
def test_models_without_logits_are_refused(output):
    class Other(nn.Module):
        def forward(self, x):
            return output

    with pytest.raises(ValueError, match=r"the reference Other must give logits \[26, K\]"):
        load_reference(Other()).logits(step_of(), Anywhere())


def test_an_ensemble_is_a_reference():
    networks = [old_network(seed) for seed in range(3)]
    reference = load_reference(EnsembleClassifier(networks, num_classes=K))
    expected = np.mean([said(network).numpy() for network in networks], axis=0)
    asking = fit(reference)
    index, logits = asking.rows()
    np.testing.assert_allclose(logits.numpy(), expected[index], atol=1e-6)
    assert reference.num_parameters == 3 * sum(weight.numel() for weight in networks[0].parameters())


def test_a_reference_is_taken_as_it_is():
    reference = Reference(old_network())
    assert load_reference(reference) is reference
