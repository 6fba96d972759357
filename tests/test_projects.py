"""Kinds of public projects, rebuilt small by their interfaces: each is tested as its authors wrote it, and left as it was."""

import copy
import hashlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.utils.data import DataLoader, TensorDataset

import clrtool

QUICK = {"sweep_epochs": 2, "seeds": 1, "progress": False, "evaluations": 4}


def digest(value):
    """A hash of tensors, however nested, and of whatever else is plain."""
    found = hashlib.sha256()

    def add(each):
        if isinstance(each, torch.Tensor):
            found.update(each.detach().cpu().contiguous().numpy().tobytes())
        elif isinstance(each, dict):
            [add(part) for name in each for part in (str(name), each[name])]
        elif isinstance(each, list | tuple):
            [add(part) for part in each]
        else:
            found.update(repr(each).encode())

    add(value)
    return found.hexdigest()


def range_tested(model, optimizer, train, heldout=None, **options):
    """A range test, around which weights, optimizers, loaders and generators keep their hashes."""
    optimizers = optimizer if isinstance(optimizer, list) else [optimizer]

    def now():
        loaders = [each for each in (train, heldout) if isinstance(each, DataLoader) and each.generator is not None]
        return digest([
            model.state_dict(), [each.training for each in model.modules()], [each.grad for each in model.parameters()],
            [each.state_dict() for each in optimizers], [each.generator.get_state() for each in loaders],
            torch.get_rng_state(),
        ])  # fmt: skip

    before = now()
    found = clrtool.range_test(model, optimizer, train, heldout, **QUICK | options)
    assert now() == before
    curve = found.curves[0]
    assert len(curve.metric) >= 2
    assert torch.isfinite(torch.tensor(curve.heldout_loss[:2])).all()
    return found


def generator():
    return torch.Generator().manual_seed(3)


def boxes(number, seed):
    """Images with one bright square, and where it is."""
    random, samples = torch.Generator().manual_seed(seed), []
    for _ in range(number):
        image = 0.1 * torch.rand(3, 64, 64, generator=random)
        left, top = torch.randint(0, 32, (2,), generator=random).tolist()
        image[:, top : top + 30, left : left + 30] += 0.8
        box = torch.tensor([[left, top, left + 30, top + 30]], dtype=torch.float32)
        samples.append((image, {"boxes": box, "labels": torch.ones(1, dtype=torch.long)}))
    return samples


def as_lists(batch):
    return tuple(zip(*batch, strict=True))


def detector():
    """A Faster R-CNN of torchvision with a backbone of two convolutions."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 4, 1), nn.BatchNorm2d(16))
    backbone.out_channels = 16
    return FasterRCNN(
        backbone, num_classes=2, min_size=64, max_size=64, rpn_anchor_generator=AnchorGenerator(((32,),), ((1.0,),)),
        box_roi_pool=None, rpn_post_nms_top_n_train=50, rpn_post_nms_top_n_test=20,
    )  # fmt: skip


def found_by(model, batch):
    """How much of each box is found by the surest answer."""
    from torchvision.ops import box_iou

    answers = model(list(batch[0]))
    overlaps = [
        float(box_iou(answer["boxes"][:1], target["boxes"]).sum())
        for answer, target in zip(answers, batch[1], strict=True)
    ]
    return sum(overlaps), len(overlaps)


def losses_of(model, batch):
    return sum(model(list(batch[0]), list(batch[1])).values())


@pytest.mark.parametrize("reads", ["the losses of training mode", "a measure of its boxes"])
def test_a_detector_of_torchvision_whose_losses_are_those_of_training_mode_alone(reads):
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = detector().train()
    train = DataLoader(boxes(16, 0), 4, shuffle=True, collate_fn=as_lists, generator=generator())
    heldout = DataLoader(boxes(8, 1), 4, collate_fn=as_lists)
    optimizer = torch.optim.SGD(model.parameters(), 0.005, momentum=0.9, weight_decay=0.0005)
    measured = {"measure": found_by, "metric": "IoU of boxes", "higher_is_better": True}
    options = {"eval_loss": "train"} if reads.startswith("the losses") else measured
    found = range_tested(model, optimizer, train, heldout, step=losses_of, end_lr=0.1, start_lr=1e-4, **options)
    assert found.record.sweep.heldout_samples == 8


class Down(nn.Module):
    """A U-Net of one step down and up, whose outputs are (batch, classes, height, width)."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.below = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up, self.last = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 3, 1)

    def forward(self, images):
        first = self.first(images)
        return self.last(torch.cat([first, self.up(self.below(first))], 1))


def masks(number, seed):
    images = torch.rand(number, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool2d(images, 3, 1, 1)
    return TensorDataset(images, (smooth > 0.45).long()[:, 0] + (smooth > 0.55).long()[:, 0])


def dice_and_cross_entropy(outputs, masks):
    """What Pytorch-UNet adds up."""
    wanted = F.one_hot(masks, 3).permute(0, 3, 1, 2).float()
    shares = outputs.softmax(1)
    dice = (2 * (shares * wanted).sum() + 1e-6) / ((shares + wanted).sum() + 1e-6)
    return F.cross_entropy(outputs, masks) + 1 - dice


def test_a_u_net_with_a_loss_of_its_own_and_the_iou_of_its_masks():
    torchmetrics = pytest.importorskip("torchmetrics")
    model = Down()
    train = DataLoader(masks(60, 0), 6, shuffle=True, generator=generator())
    optimizer = torch.optim.RMSprop(model.parameters(), 1e-5, weight_decay=1e-8, momentum=0.999)
    iou = torchmetrics.JaccardIndex(task="multiclass", num_classes=3)
    found = range_tested(model, optimizer, train, DataLoader(masks(20, 1), 5), loss=dice_and_cross_entropy, measure=iou)
    assert found.record.sweep.metric.name == "JaccardIndex"
    found = range_tested(model, optimizer, train, DataLoader(masks(20, 1), 5), loss=dice_and_cross_entropy)
    assert found.record.sweep.metric.is_share, "without a measure it is the share of pixels"


class Words(nn.Module):
    """pytorch/examples' word language model: the hidden state is an argument, and carried over by the loop."""

    def __init__(self, words=20, width=16):
        super().__init__()
        self.inner, self.lstm, self.out = nn.Embedding(words, width), nn.LSTM(width, width), nn.Linear(width, words)

    def forward(self, tokens, hidden):
        outputs, hidden = self.lstm(self.inner(tokens), hidden)
        return F.log_softmax(self.out(outputs).flatten(0, 1), 1), hidden


def passages(lanes, parts, seed, length=7):
    """Batches (length, lanes), time first, of a text in which each word follows from the one before."""
    random = torch.Generator().manual_seed(seed)
    text = [torch.randint(20, (lanes,), generator=random)]
    for _ in range(parts * length):
        jump = torch.rand(lanes, generator=random) < 0.1
        text.append(torch.where(jump, torch.randint(20, (lanes,), generator=random), (7 * text[-1] + 3) % 20))
    text = torch.stack(text)
    return [
        (text[start : start + length], text[start + 1 : start + length + 1].flatten())
        for start in range(0, parts * length, length)
    ]


def carried(model, batch):
    """Its loop: the state of the batch before goes on, without its gradients; it is kept with the model it belongs to."""
    tokens, targets = batch
    hidden = getattr(model, "hidden", None) if model.training else None
    outputs, hidden = model(tokens, None if hidden is None else tuple(each.detach() for each in hidden))
    if model.training:
        model.hidden = hidden
    return F.nll_loss(outputs, targets)


def test_a_word_language_model_whose_hidden_state_is_carried_over_from_batch_to_batch():
    model = Words()
    optimizer = torch.optim.SGD(model.parameters(), 20.0)
    found = range_tested(model, optimizer, passages(8, 30, 0), passages(8, 6, 1), step=carried, clip_norm=0.25)
    assert not hasattr(model, "hidden")
    assert found.record.sweep.heldout_samples == 0, "of flattened targets no length is common, and none is shown"
    assert min(found.curves[0].heldout_loss) < found.curves[0].heldout_loss[0]


class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4))
        self.fc = nn.Linear(8, 1)

    def forward(self, first, second):
        return torch.sigmoid(self.fc(torch.cat([self.net(first), self.net(second)], 1)))


def twins(number, seed):
    random = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, number, 10, generator=random)
    return TensorDataset(first, second, (first[:, 0] * second[:, 0] > 0).float())


def test_a_siamese_network_of_three_tensors_a_batch():
    model = Twins()
    train = DataLoader(twins(200, 0), 20, shuffle=True, generator=generator())

    def loss(outputs, targets):
        return F.binary_cross_entropy(outputs.squeeze(), targets)

    found = range_tested(
        model, torch.optim.Adadelta(model.parameters(), 1.0), train, DataLoader(twins(60, 1), 20), loss=loss
    )
    assert (found.record.sweep.metric.name, found.record.sweep.heldout_samples) == ("loss", 60)


class Nano(nn.Module):
    """nanoGPT's interface: model(x, y) -> (logits, loss), and groups with and without decay."""

    def __init__(self, words=16, width=16, length=8):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(words, width), nn.Embedding(length, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 32, 0.0, batch_first=True)
        self.lm_head = nn.Linear(width, words, bias=False)
        self.wte.weight = self.lm_head.weight  # tied

    def forward(self, tokens, targets=None):
        places = torch.arange(tokens.shape[1])
        mask = nn.Transformer.generate_square_subsequent_mask(len(places))
        logits = self.lm_head(self.block(self.wte(tokens) + self.wpe(places), mask, is_causal=True))
        loss = None if targets is None else F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        return logits, loss

    def configure_optimizers(self, decay, rate):
        trained = [each for each in self.parameters() if each.requires_grad]
        groups = [
            {"params": [each for each in trained if each.dim() >= 2], "weight_decay": decay},
            {"params": [each for each in trained if each.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, rate, betas=(0.9, 0.95))


class Drawn:
    """nanoGPT's get_batch: batches at random places of a text, without an end."""

    def __init__(self, seed):
        self.text = (torch.arange(400) * 5 + torch.arange(400) // 16) % 16
        self.seed = seed

    def __iter__(self):
        random = torch.Generator().manual_seed(self.seed)
        while True:
            places = torch.randint(len(self.text) - 8, (10,), generator=random)
            yield tuple(torch.stack([self.text[each + by : each + by + 8] for each in places]) for by in (0, 1))


def test_nanogpts_loop_of_micro_batches_over_a_stream_without_an_end():
    from itertools import islice

    torch.manual_seed(0)
    model = Nano()
    optimizer = model.configure_optimizers(0.1, 6e-4)
    heldout = [*islice(Drawn(1), 4)]
    found = range_tested(
        model, optimizer, Drawn(0), heldout, step=lambda model, batch: model(*batch)[1],
        steps=120, accumulate=2, clip_norm=1.0, policy="cosine", sweep_epochs=10,
    )  # fmt: skip
    assert found.record.sweep.heldout_samples == 40
    assert [group.weight_decay for group in found.record.sweep.groups] == [0.1, 0.0]
    assert model.wte.weight is model.lm_head.weight


class Graphs:
    """A batch of graphs as PyTorch Geometric makes it: all nodes in one tensor, and the graph of each."""

    def __init__(self, x, batch, y):
        self.x, self.batch, self.y, self.num_graphs = x, batch, y, len(y)

    def to(self, device):
        return Graphs(self.x.to(device), self.batch.to(device), self.y.to(device))


def graphs(number, seed):
    random = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(number):
        sizes = torch.randint(2, 6, (8,), generator=random)
        x = torch.randn(int(sizes.sum()), 5, generator=random)
        batch = torch.repeat_interleave(torch.arange(8), sizes)
        means = torch.zeros(8, 5).index_add(0, batch, x) / sizes[:, None]
        batches.append(Graphs(x, batch, (means[:, 0] > 0).long()))
    return batches


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 16), nn.Linear(16, 2)

    def forward(self, x, batch):
        inner = self.inner(x).relu()
        return self.outer(inner.new_zeros(int(batch.max()) + 1, 16).index_add(0, batch, inner))


def test_batches_of_graphs_are_counted_by_their_graphs():
    model = Pooled()

    def step(model, data):
        return F.cross_entropy(model(data.x, data.batch), data.y)

    def right(model, data):
        return (model(data.x, data.batch).argmax(1) == data.y).sum(), data.num_graphs

    optimizer = torch.optim.Adam(model.parameters(), 0.01, weight_decay=5e-4)
    found = range_tested(model, optimizer, graphs(20, 0), graphs(4, 1), step=step, measure=right, metric="accuracy")
    assert found.record.sweep.heldout_samples == 32
    assert max(found.curves[0].metric) > 0.5


def sentences(number, seed):
    """Half of the words are the class's own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (number,), generator=generator)
    words = torch.randint(4, 20, (number, 12), generator=generator)
    words[:, ::2] += 20 * labels[:, None]
    return [{"input_ids": each, "labels": label} for each, label in zip(words, labels, strict=True)]


def adapted():
    """A small BERT with adapters of peft."""
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                        max_position_embeddings=16)  # fmt: skip
    lora = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=["query", "value"])
    return get_peft_model(BertForSequenceClassification(config), lora)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, which uses an older name of transformers
def test_a_transformer_fine_tuned_by_lora_of_peft_trains_its_adapters_alone():
    torch.manual_seed(0)
    model = adapted()
    train = DataLoader(sentences(320, 1), 32, shuffle=True, generator=generator())
    found = range_tested(model, torch.optim.AdamW(model.parameters(), 1e-3), train, DataLoader(sentences(128, 2), 64),
                         sweep_epochs="auto", epochs=30)  # fmt: skip
    assert 1e-4 < found.max_lr < 0.3
    names = {name for name, each in model.named_parameters() if each.requires_grad}
    assert all("lora" in name or "classifier" in name for name in names)


def graphs_of_geometric(number, seed):
    from torch_geometric.data import Data

    generator = torch.Generator().manual_seed(seed)
    for size in torch.randint(4, 9, (number,), generator=generator).tolist():
        features = torch.randn(size, 5, generator=generator)
        edges = torch.randint(0, size, (2, 3 * size), generator=generator)
        yield Data(x=features, edge_index=edges, y=(features[:, 0].mean() > 0).long().reshape(1))


def convolved():
    """A graph convolution of torch_geometric, pooled."""
    from torch_geometric.nn import GCNConv, global_mean_pool

    class Convolved(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = GCNConv(5, 16), nn.Linear(16, 2)

        def forward(self, batch):
            return self.last(global_mean_pool(self.first(batch.x, batch.edge_index).relu(), batch.batch))

    return Convolved()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch_geometric, which scripts a function
def test_graphs_of_torch_geometric_are_read_by_a_step_and_counted_by_its_measure():
    from torch_geometric.loader import DataLoader as GraphLoader

    torch.manual_seed(0)
    model = convolved()
    train = GraphLoader([*graphs_of_geometric(300, 1)], 30, shuffle=True, generator=generator())
    heldout = GraphLoader([*graphs_of_geometric(100, 2)], 50)
    given = model, torch.optim.Adam(model.parameters()), train, heldout
    with pytest.raises(clrtool.ConfigError, match=r"it is \w*DataBatch\w*\. For any other give step="):
        clrtool.range_test(*given, **QUICK)
    found = range_tested(*given, sweep_epochs="auto", epochs=30, eval_loss="eval", metric="accuracy",
                         step=lambda model, batch: F.cross_entropy(model(batch), batch.y),
                         measure=lambda model, batch: ((model(batch).argmax(1) == batch.y).sum(), batch.num_graphs))  # fmt: skip
    assert found.record.sweep.heldout_samples == 100
    assert found.max_lr > 1e-3


def test_the_digest_sees_what_changes():
    model = Pooled()
    before = digest(model.state_dict())
    assert digest(copy.deepcopy(model).state_dict()) == before
    with torch.no_grad():
        model.outer.bias[0] += 1e-6
    assert digest(model.state_dict()) != before
