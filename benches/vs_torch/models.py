"""SHIKE's networks and losses in PyTorch, written as the paper's code has them.

Names are those of our exported weights, so that `load_state_dict(strict=True)` takes them.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != cout:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        width = cout // 4
        self.conv1 = nn.Conv2d(cin, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


class NormedLinear(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, classes))

    def forward(self, x):
        return F.normalize(x, dim=1).mm(F.normalize(self.weight, dim=0))


class StridedConv(nn.Module):
    def __init__(self, cin, cout, relu):
        super().__init__()
        layers = [nn.Conv2d(cin, cout, 3, 2, 1, bias=False), nn.BatchNorm2d(cout)]
        self.conv = nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))

    def forward(self, x):
        return self.conv(x)


class ShallowExpert(nn.Module):
    def __init__(self, channels, depth):
        super().__init__()
        self.convs = nn.Sequential()
        for k in range(depth):
            self.convs.add_module(
                f"StridedConv{k}", StridedConv(channels << k, channels << (k + 1), k != 1))

    def forward(self, x):
        return self.convs(x)


class Shike(nn.Module):
    """Stages of (channels, blocks, stride); the last belongs to the experts."""

    def __init__(self, stem, block, stages, classes, experts=3, scale=30.0):
        super().__init__()
        self.scale = scale
        self.large = stem == "large"
        cin = 64 if self.large else 16
        self.conv1 = (nn.Conv2d(3, cin, 7, 2, 3, bias=False) if self.large
                      else nn.Conv2d(3, cin, 3, 1, 1, bias=False))
        self.bn1 = nn.BatchNorm2d(cin)

        def stage(cin, cout, blocks, stride):
            layers = [block(cin, cout, stride)]
            return nn.Sequential(*layers, *[block(cout, cout, 1) for _ in range(blocks - 1)])

        self.shared = len(stages) - 1
        outs = []
        for i, (cout, blocks, stride) in enumerate(stages[:-1]):
            setattr(self, f"layer{i + 1}", stage(cin, cout, blocks, stride))
            cin = cout
            outs.append(cout)
        cout, blocks, stride = stages[-1]
        own = nn.ModuleList(stage(cin, cout, blocks, stride) for _ in range(experts))
        self.last = f"layer{len(stages)}s"
        setattr(self, self.last, own)
        self.shallow_exps = nn.ModuleList(
            ShallowExpert(outs[k % self.shared], self.shared - k % self.shared)
            for k in range(experts))
        self.classifiers = nn.ModuleList(NormedLinear(cout, classes) for _ in range(experts))
        self.rt_classifiers = nn.ModuleList(NormedLinear(cout, classes) for _ in range(experts))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.large:
            x = F.max_pool2d(x, 3, 2, 1)
        shallow = []
        for i in range(self.shared):
            x = getattr(self, f"layer{i + 1}")(x)
            shallow.append(x)
        outs = []
        for k, stage in enumerate(getattr(self, self.last)):
            fused = stage(x) * self.shallow_exps[k](shallow[k % self.shared])
            pooled = F.adaptive_avg_pool2d(fused, 1).flatten(1)
            outs.append(self.classifiers[k](pooled) * self.scale)
        return outs


def dkt(outs, labels):
    """The stage-1 loss, transcribed from the released code's description."""
    classes = outs[0].shape[1]
    target = F.one_hot(labels, classes).to(outs[0].dtype)
    loss = sum(-(target * F.log_softmax(o, 1)).sum(1).mean() for o in outs)
    largest = torch.stack(outs).max(0)[0]
    mean = sum(outs) / len(outs)
    masked = target * -30 + mean * (1 - target)
    hardest = F.one_hot(masked.argmax(1), classes).to(mean.dtype)
    teacher = F.softmax(masked * hardest + largest * (1 - target) * (1 - hardest), 1)
    for o in outs:
        student = o * (1 - target) + target * -30
        loss = loss + 10 * F.kl_div(F.log_softmax(student, 1), teacher)
    for i, student in enumerate(outs):
        for j, other in enumerate(outs):
            if i != j:
                loss = loss + F.kl_div(F.log_softmax(student, 1), F.softmax(other, 1))
    return loss


def balanced(outs, labels, counts):
    prior = counts.log()
    return sum(F.cross_entropy(o + prior, labels) for o in outs)


def network(name):
    if name == "shike-resnet32":
        return Shike("small", BasicBlock, [(16, 5, 1), (32, 5, 2), (64, 5, 2)], 100)
    if name == "shike-resnet50":
        stages = [(256, 3, 1), (512, 4, 2), (1024, 6, 2), (2048, 3, 2)]
        return Shike("large", Bottleneck, stages, 1000)
    if name == "resnet50":
        import torchvision

        return torchvision.models.resnet50()
    if name == "efficientnet_lite0":
        from efficientnet_lite_pytorch import EfficientNet

        return EfficientNet.from_name("efficientnet-lite0")
    if name == "vit_s16":
        import timm

        return timm.create_model("vit_small_patch16_224")
    if name == "dinov2_s14":
        import timm

        return timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=1000)
    raise ValueError(name)


def load(model, state):
    """Loads a state dict strictly; a table of positions is brought to the model's size as DINOv2's authors do."""
    table = state.get("pos_embed")
    if table is not None and table.shape != model.pos_embed.shape:
        side, wanted = (math.isqrt(t.shape[1] - 1) for t in (table, model.pos_embed))
        patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        scale = (wanted + 0.1) / side
        patches = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
        state["pos_embed"] = torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], 1)
    model.load_state_dict(state, strict=True)
