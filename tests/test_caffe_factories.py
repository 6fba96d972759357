"""Caffe's networks and solver, from configs/: a whole update against numpy in float64, written out layer by layer by hand."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from clrtool.config.file import find_config, load_config
from clrtool.engine.configured.build import build_workload
from clrtool.engine.models.builtin import resnet
from clrtool.engine.training.cuda_graph import CapturedEnsemble
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import ConfigError
from configs.caffe_factories import (
    CaffeSGD,
    ResidualBlock,
    RunningNorm,
    WithinChannelNorm,
    caffe_resnet,
    cifar10_full,
    cifar10_quick,
)
from tests.engine.workloads import digits

CIFAR = (3, 32, 32)
CAFFE = {"factory": "configs.caffe_factories:caffe_sgd", "args": {"momentum": 0.9, "weight_decay": 0.01}}
# Of cifar10_full_train_test.prototxt: lr_mult and decay_mult of the weights and of the biases; the solver's decay.
MULTIPLIERS = {
    "conv1": ((1, 1), (2, 1)),
    "conv2": ((1, 1), (2, 1)),
    "conv3": ((1, 1), (1, 1)),
    "ip1": ((1, 250), (2, 0)),
}
DECAY, MOMENTUM = 0.004, 0.9


def conv(x, w, b):
    """5x5 with a border of 2, as the output and the function that takes its gradient back, as all that follow."""
    padded, side = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2))), x.shape[2]
    windows = {(i, j): padded[:, :, i : i + side, j : j + side] for i, j in product(range(5), repeat=2)}
    y = sum(np.einsum("nchw,oc->nohw", windows[i, j], w[:, :, i, j]) for i, j in windows) + b[:, None, None]

    def back(g):
        dw, dpadded = np.zeros_like(w), np.zeros_like(padded)
        for (i, j), window in windows.items():
            dw[:, :, i, j] = np.einsum("nohw,nchw->oc", g, window)
            dpadded[:, :, i : i + side, j : j + side] += np.einsum("nohw,oc->nchw", g, w[:, :, i, j])
        return dpadded[:, :, 2:-2, 2:-2], dw, g.sum((0, 2, 3))

    return y, back


def pool(x, average):
    """Windows of 3x3 by steps of 2 that end at the border, as in pooling_layer.cpp."""
    side = x.shape[2]
    pooled = int(np.ceil((side - 3) / 2)) + 1
    cuts = [slice(2 * place, min(2 * place + 3, side)) for place in range(pooled)]
    y = np.zeros((*x.shape[:2], pooled, pooled))
    for i, j in product(range(pooled), repeat=2):
        window = x[:, :, cuts[i], cuts[j]]
        y[:, :, i, j] = window.mean((2, 3)) if average else window.max((2, 3))

    def back(g):
        dx = np.zeros_like(x)
        for i, j in product(range(pooled), repeat=2):
            window, part = x[:, :, cuts[i], cuts[j]], g[:, :, i, j, None, None]
            share = 1 / window[0, 0].size if average else window == y[:, :, i, j, None, None]
            dx[:, :, cuts[i], cuts[j]] += part * share
        return dx

    return y, back


def relu(x):
    return np.maximum(x, 0), lambda g: g * (x > 0)


def box(x):
    """The sum over the 3x3 pixels around each, zeros outside."""
    padded, side = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), x.shape[2]
    return sum(padded[:, :, i : i + side, j : j + side] for i, j in product(range(3), repeat=2))


def lrn(x):
    scale = 1 + 5e-5 * box(x * x) / 9
    return x * scale**-0.75, lambda g: g * scale**-0.75 + 2 * x * box(g * x * -0.75 * scale**-1.75) * 5e-5 / 9


def flat(x):
    return x.reshape(len(x), -1), lambda g: g.reshape(x.shape)


def linear(x, w, b):
    return x @ w.T + b, lambda g: (g @ w, g.T @ x, g.sum(0))


def average(x):
    return pool(x, average=True)


def maximum(x):
    return pool(x, average=False)


LAYERS = ["conv1", maximum, relu, lrn, "conv2", relu, average, lrn, "conv3", relu, average, flat, "ip1"]


def gradients(weights, x, labels):
    """Of the mean softmax loss of cifar10_full."""
    backs = []
    for layer in LAYERS:
        run = conv if str(layer).startswith("conv") else linear
        x, back = run(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"]) if isinstance(layer, str) else layer(x)
        backs.append(back)
    shares = np.exp(x - x.max(1, keepdims=True))
    g = (shares / shares.sum(1, keepdims=True) - np.eye(10)[labels]) / len(labels)
    found = {}
    for layer, back in zip(reversed(LAYERS), reversed(backs), strict=True):
        if isinstance(layer, str):
            g, found[f"{layer}.weight"], found[f"{layer}.bias"] = back(g)
        else:
            g = back(g)
    return found


def caffe_updates(weights, batches, lrs):
    """Caffe's ``SGDSolver``: the weights after one update for each batch."""
    weights, history = dict(weights), {name: np.zeros_like(w) for name, w in weights.items()}
    for (x, labels), lr in zip(batches, lrs, strict=True):
        found = gradients(weights, x, labels)
        for layer, multipliers in MULTIPLIERS.items():
            for kind, (lr_mult, decay_mult) in zip(("weight", "bias"), multipliers, strict=True):
                name = f"{layer}.{kind}"
                diff = found[name] + DECAY * decay_mult * weights[name]
                history[name] = lr * lr_mult * diff + MOMENTUM * history[name]
                weights[name] = weights[name] - history[name]
    return weights


def test_two_updates_of_cifar10_full_are_caffes_parameter_for_parameter(tmp_path):
    generator, lrs = np.random.default_rng(0), (0.001, 0.004)
    batches = [(generator.integers(-128, 128, (2, *CIFAR)).astype(float), generator.integers(0, 10, 2)) for _ in lrs]
    model = cifar10_full(CIFAR, 10).double()
    # Larger weights than at first, and biases, so that the norms and every multiplier count.
    sizes = {"conv1": 0.05, "conv2": 0.05, "conv3": 0.05, "ip1": 0.005}
    first = {
        name: generator.normal(0, sizes[name.split(".")[0]], each.shape) for name, each in model.named_parameters()
    }
    model.load_state_dict({name: torch.from_numpy(w) for name, w in first.items()})
    optimizer = shipped(tmp_path, "cifar10-full").make_optimizer(model)
    for (x, labels), lr in zip(batches, lrs, strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(labels)).backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_ratio"]
        optimizer.step()
    expected = caffe_updates(first, batches, lrs)
    assert sorted(expected) == sorted(first)
    for name, each in model.named_parameters():
        moved, wanted = each.detach().numpy() - first[name], expected[name] - first[name]
        assert np.abs(moved - wanted).max() <= 1e-12 * np.abs(wanted).max(), name


def test_the_gradients_by_hand_are_those_of_finite_differences():
    generator, step = np.random.default_rng(1), 1e-5
    for layer, side in ((maximum, 7), (average, 8), (relu, 4), (lrn, 5)):
        x, direction, g = (generator.normal(0, 100 if layer is lrn else 1, (2, 3, side, side)) for _ in range(3))
        g = g[:, :, : layer(x)[0].shape[2], : layer(x)[0].shape[3]]
        slope = ((layer(x + step * direction)[0] - layer(x - step * direction)[0]) * g).sum() / (2 * step)
        assert slope == pytest.approx((layer(x)[1](g) * direction).sum(), rel=1e-6)


def sizes(model):
    return sum(each.numel() for each in model.parameters())


def test_the_networks_have_the_size_of_caffes():
    assert sizes(cifar10_full(CIFAR, 10)) == 89_578
    assert sizes(cifar10_quick(CIFAR, 10)) == 145_578
    biases = 32 + 32 + 64
    assert sizes(cifar10_full(CIFAR, 10, "sigmoid", "batch")) == 89_578 - biases


@pytest.mark.parametrize("make", [cifar10_full, cifar10_quick, caffe_resnet])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_every_network_gives_one_output_a_class(make, shape):
    assert make(shape, 7)(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (cifar10_full(CIFAR, 10), "conv1 pool1 relu1 norm1 conv2 relu2 pool2 norm2 conv3 relu3 pool3 flatten ip1"),
        (cifar10_quick(CIFAR, 10), "conv1 pool1 relu1 conv2 relu2 pool2 conv3 relu3 pool3 flatten ip1 ip2"),
        (
            cifar10_full(CIFAR, 10, "sigmoid", "batch"),
            "conv1 pool1 bn1 sigmoid1 conv2 bn2 sigmoid2 pool2 conv3 bn3 sigmoid3 pool3 flatten ip1",
        ),
    ],
)
def test_layers_stand_in_caffes_order_and_halve_the_pixels_three_times(model, layers):
    assert [name for name, _ in model.named_children()] == layers.split()
    x, pixels = torch.zeros(1, *CIFAR), {}
    for name, layer in model.named_children():
        x = layer(x)
        pixels[name] = tuple(x.shape[2:])
    assert [pixels[f"pool{number}"] for number in (1, 2, 3)] == [(16, 16), (8, 8), (4, 4)]
    assert isinstance(model.pool1, nn.MaxPool2d)
    assert isinstance(model.pool2, nn.AvgPool2d)


def test_images_of_any_size_from_8_pixels_on_fit():
    for side in range(8, 41):
        assert cifar10_quick((1, side, 8), 3)(torch.zeros(1, 1, side, 8)).shape == (1, 3)
    with pytest.raises(ValueError, match="depth = 21 must be 6n"):
        caffe_resnet(depth=21)
    with pytest.raises(ValueError, match="nothing of 7 x 32 pixels; it needs 8 a side"):
        cifar10_full((3, 7, 32), 10)


def test_a_window_over_the_border_is_averaged_over_its_pixels_and_the_norm_over_all_nine():
    ones = torch.ones(1, 1, 8, 8)
    assert torch.equal(cifar10_full(CIFAR, 10).pool2(ones), torch.ones(1, 1, 4, 4))
    normed = WithinChannelNorm()(100 * ones)
    for (row, column), pixels in {(3, 3): 9, (0, 3): 6, (7, 7): 4}.items():
        assert normed[0, 0, row, column].item() == pytest.approx(100 * (1 + 0.5 * pixels / 9) ** -0.75)


@pytest.mark.parametrize(
    ("make", "stds"),
    [
        (cifar10_full, {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "ip1": 0.01}),
        (cifar10_quick, {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "ip1": 0.1, "ip2": 0.1}),
    ],
)
def test_weights_are_drawn_with_the_published_deviations_and_biases_are_zero(make, stds):
    torch.manual_seed(0)
    models = [make(CIFAR, 10) for _ in range(20)]
    for name, std in stds.items():
        weights = torch.cat([getattr(model, name).weight.detach().flatten() for model in models]).double()
        assert weights.std().item() == pytest.approx(std, rel=4 / (2 * len(weights)) ** 0.5)
        assert abs(weights.mean().item()) < 4 * std / len(weights) ** 0.5
        assert (weights.abs() < std).double().mean().item() == pytest.approx(0.6827, abs=0.02)  # of a normal draw
        assert not any(getattr(model, name).bias.any() for model in models)


def test_the_running_statistics_are_weighted_means_of_the_batches_that_were_seen():
    norm, torchs = RunningNorm(3).double(), nn.BatchNorm2d(3, affine=False).double()
    batches = torch.randn(5, 8, 3, 4, 4, dtype=torch.float64) * 3 + torch.arange(5.0)[:, None, None, None, None]
    for batch in batches:
        torch.testing.assert_close(norm(batch), torchs(batch))
    weights = 0.999 ** np.arange(4, -1, -1)
    seen = batches.numpy().transpose(0, 2, 1, 3, 4).reshape(5, 3, -1)
    mean, var = (np.average(each, axis=0, weights=weights) for each in (seen.mean(2), seen.var(2, ddof=1)))
    np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(norm.running_var, var, rtol=1e-12)
    shape = (1, 3, 1, 1)
    expected = (batches[0].numpy() - mean.reshape(shape)) / np.sqrt(var.reshape(shape) + 1e-5)
    np.testing.assert_allclose(norm.eval()(batches[0]), expected, rtol=1e-12)


def test_the_residual_network_of_caffe_averages_windows_in_its_shortcuts_by_hand():
    block = ResidualBlock(2, 4).eval()
    nn.init.zeros_(block.norm2.weight)  # leaves the shortcut
    x = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    y = block(x).detach().numpy()
    for row, column in product(range(3), range(3)):  # Caffe divides by the pixels that a window has
        window = x[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].numpy()
        np.testing.assert_allclose(y[:, :2, row, column], window.mean(axis=(2, 3)), rtol=1e-6)
    assert not y[:, 2:].any()


def test_the_residual_network_of_caffe_begins_with_its_fillers_and_keeps_its_averages():
    torch.manual_seed(0)
    model = caffe_resnet(CIFAR, 10)
    assert sizes(model) == sizes(resnet(CIFAR, 10, depth=56))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 5000:
            deviation = (2 / (layer.in_channels * 9)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.momentum == 0.05
    linear = model[-1]
    assert linear.weight.abs().max().item() == pytest.approx((3 / 64) ** 0.5, rel=0.02)
    assert linear.weight.std().item() == pytest.approx((1 / 64) ** 0.5, rel=0.05)
    assert not linear.bias.any()


def walk(make, lrs, size=4):
    """Weights along a quadratic valley, one row a step."""
    w = nn.Parameter(torch.linspace(-1, 2, size, dtype=torch.float64))
    optimizer, rows = make([w]), []
    for lr in lrs:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        (w.square() * torch.arange(1, size + 1)).sum().backward()
        optimizer.step()
        rows.append(w.detach().clone())
    return torch.stack(rows)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_step_is_torchs_while_the_learning_rate_is_constant_and_another_once_it_changes(nesterov):
    args = {"momentum": 0.9, "weight_decay": 0.1, "nesterov": nesterov}
    ours, torchs = (
        [walk(lambda params, kind=kind: kind(params, lr=1.0, **args), lrs) for lrs in ([0.01] * 30, [0.01, 0.02])]
        for kind in (CaffeSGD, torch.optim.SGD)
    )
    torch.testing.assert_close(ours[0], torchs[0], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(ours[1], torchs[1])


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_steps_at_changing_learning_rates_are_those_of_caffes_solvers(nesterov):
    lrs = [0.01, 0.03, 0.0, 0.02]
    rows = walk(lambda params: CaffeSGD(params, momentum=0.9, weight_decay=0.1, nesterov=nesterov), lrs)
    w, history = np.linspace(-1, 2, 4), np.zeros(4)
    for lr, row in zip(lrs, rows, strict=True):
        before, diff = history, 2 * np.arange(1, 5) * w + 0.1 * w
        history = lr * diff + 0.9 * before
        w = w - ((1 + 0.9) * history - 0.9 * before if nesterov else history)
        np.testing.assert_allclose(row, w, rtol=1e-12)


def solved(optimizer):
    """The digits with an optimizer of the factory file."""
    return digits(optimizer=optimizer, allow_import=["configs.*"])


def test_the_state_of_the_optimizer_is_tensors_that_go_on_in_another_one():
    workload, lrs = solved(CAFFE), np.geomspace(0.001, 0.05, 40).tolist()
    whole, first, second = (Trainer(workload, 2) for _ in range(3))
    losses = whole.train(0, lrs)
    assert first.train(0, lrs[:15]) == losses[:15]
    state = first.state()
    buffers = [each for kept in state["optimizer"]["state"].values() for each in kept.values()]
    assert len(buffers) == 4
    assert all(type(each) is torch.Tensor for each in buffers)
    second.restore(state)
    assert second.train(15, lrs[15:]) == losses[15:]


def test_a_learning_rate_on_the_device_and_rules_for_groups_give_the_same_steps():
    workload, lrs = solved(CAFFE | {"groups": [{"params": ["*.bias"], "lr_ratio": 2.0}]}), [0.01, 0.03] * 10
    with workload.on_device():
        losses = CapturedEnsemble(workload, [4], lrs, graph=False).train(0, 20)[0]
        np.testing.assert_allclose(losses, Trainer(workload, 4).train(0, lrs), rtol=1e-5)


def test_the_step_follows_the_learning_rate_and_its_arguments_are_checked():
    assert solved(CAFFE).warnings == ()
    with pytest.raises(ConfigError, match=r"has no callable 'cafe_sgd'; did you mean 'caffe_sgd'\?"):
        solved({"factory": "configs.caffe_factories:cafe_sgd"})
    for name, value in {"momentum": 1.0, "weight_decay": -0.1}.items():
        with pytest.raises(ConfigError, match=rf"optimizer.args: ValueError: {name} = {value} must be"):
            solved(CAFFE | {"args": {name: value}})
    with pytest.raises(ValueError, match="lr = -1 must be at least 0"):
        CaffeSGD([nn.Parameter(torch.zeros(1))], lr=-1)


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        (
            "cifar10-full",
            [(1.0, 0.004, 4, 2400 + 25600 + 51200 + 64), (1.0, 1.0, 1, 10240), (2.0, 0.0, 1, 10), (2.0, 0.004, 2, 64)],
        ),
        ("cifar10-sigmoid-bn", [(1.0, 0.0, 5, 89_578 - 128)]),
    ],
)
def test_the_shipped_configs_train_their_network_with_caffes_multipliers(tmp_path, name, groups):
    workload = shipped(tmp_path, name)
    found = sorted((group.lr_ratio, group.weight_decay, group.tensors, group.parameters) for group in workload.groups)
    assert found == groups
    assert workload.warnings == ()
    assert (workload.batch_size, len(workload.heldout)) == (100, 100)


@pytest.mark.short(0)
def test_the_network_of_super_convergence_sees_an_eighth_of_a_batch_at_a_time(tmp_path):
    workload = shipped(tmp_path, "cifar10-resnet56", "data.batch_size=40", "sweep.evaluations=20")
    assert (workload.micro_batch_size, len(workload.heldout)) == (5, 100)
    found = sorted((group.lr_ratio, group.weight_decay, group.tensors, group.parameters) for group in workload.groups)
    assert found == [(1.0, 1e-4, 166, 853_008), (2.0, 0.0, 1, 10)]
    trainer = Trainer(workload, 0)
    passes = []
    trainer.model[1].register_forward_hook(lambda layer, inputs, output: passes.append(len(inputs[0])))
    trainer.train(0, [0.1])
    assert passes == [5] * 8


def shipped(tmp_path, name, *more):
    """A shipped config on 300 images of noise."""
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (300, 32, 32, 3), dtype=np.uint8), np.arange(300) % 10
    np.savez(tmp_path / "c.npz", x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
    overrides = ["data.name=npz", f"data.args={{path: {tmp_path / 'c.npz'}}}", *more]
    config = find_config(name)
    allowed = {"folder": config.parent, "allow_import": ["caffe_factories:*"]}
    return build_workload(load_config(config, overrides), device="cpu", **allowed)
