"""Under which names others publish the weights of our backbones: one table per layout.

A rule is a regular expression for a whole name of theirs and our name for it. ``|0`` to ``|2`` at
the end of ours marks parts of one of our tensors (queries, keys, values), joined in that order.
Numbers in angle brackets are reckoned: ``<1/2>`` is half of the first group, ``<1-1>`` one less.
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

ENDS = r"\.(weight|bias)"
_RECKONED = re.compile(r"<(\d)([-/]\d)?>")
CLASSIFIER = (r"head\..*", r"heads\..*", r"classifier\..*", r"fc\..*", r"aux_head\..*")


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to name a backbone's weights.

    Attributes
    ----------
    name : str
        For people.
    backbones : tuple of str
        Whose weights it holds.
    mark : str
        A name that only this layout has, as a regular expression.
    rules : tuple of (theirs, ours)
    dropped : tuple of str
        Names of what a detector has no use for.
    """

    name: str
    backbones: tuple[str, ...]
    mark: str
    rules: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...] = CLASSIFIER

    def translate(self, theirs: str) -> str | None:
        """Our name; empty for what is dropped, None for what is not known."""
        for pattern, ours in self.rules:
            match = re.fullmatch(pattern, theirs)
            if match:
                return _RECKONED.sub(partial(_reckoned, match), match.expand(ours))
        return "" if any(re.fullmatch(pattern, theirs) for pattern in self.dropped) else None


def _reckoned(match: re.Match[str], rule: re.Match[str]) -> str:
    number, change = int(match[int(rule[1])]), rule[2] or "-0"
    return str(number // int(change[1:]) if change[0] == "/" else number - int(change[1:]))


class _Vit(NamedTuple):
    """What a ViT layout calls its parts."""

    block: str
    norm1: str
    norm2: str
    proj: str
    fc1: str
    fc2: str

    def rules(self) -> tuple[tuple[str, str], ...]:
        ours = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
        parts = zip(self[1:], ours, strict=True)
        return tuple((self.block + part + ENDS, rf"blocks.\1.{name}.\2") for part, name in parts)


def _qkv(block: str, ours: str, names: tuple[str, str, str]) -> tuple[tuple[str, str], ...]:
    """Rules for separate queries, keys and values; `ours` up to the end ".weight" or ".bias"."""
    last = re.compile(block).groups + 1
    return tuple((block + name + ENDS, rf"{ours}.\{last}|{i}") for i, name in enumerate(names))


_TIMM_VIT = _Vit(r"blocks\.(\d+)\.", "norm1", "norm2", r"attn\.proj", r"mlp\.fc1", r"mlp\.fc2")
_TV_BLOCK = r"encoder\.layers\.encoder_layer_(\d+)\."
_TV_VIT = _Vit(
    _TV_BLOCK,
    "ln_1",
    "ln_2",
    r"self_attention\.out_proj",
    r"mlp\.(?:0|linear_1)",
    r"mlp\.(?:3|linear_2)",
)
# in transformers 4 and 5
_HF_QKV = (
    r"(?:(?:attention|self)\.query|q_proj)",
    r"(?:(?:attention|self)\.key|k_proj)",
    r"(?:(?:attention|self)\.value|v_proj)",
)
_HF_BLOCK = r"(?:encoder\.layer|layers)\.(\d+)\."
_HF_VIT = _Vit(
    _HF_BLOCK,
    "layernorm_before",
    "layernorm_after",
    r"attention\.(?:output\.dense|o_proj)",
    r"(?:intermediate\.dense|mlp\.fc1)",
    r"(?:output\.dense|mlp\.fc2)",
)
VIT = (
    Layout(
        "ViT as in timm and DeiT",
        ("vit",),
        r"blocks\.0\.attn\.qkv\.weight",
        (
            ("cls_token", "class_token"),
            ("pos_embed", "positions"),
            (r"patch_embed\.proj" + ENDS, r"patch.\1"),
            (r"norm" + ENDS, r"norm.\1"),
            (r"blocks\.(\d+)\.attn\.qkv" + ENDS, r"blocks.\1.attn.qkv.\2"),
            *_TIMM_VIT.rules(),
        ),
        (*CLASSIFIER, r"fc_norm\..*", r"pre_logits\..*"),
    ),
    Layout(
        "ViT as in torchvision",
        ("vit",),
        r"encoder\.pos_embedding",
        (
            ("class_token", "class_token"),
            (r"encoder\.pos_embedding", "positions"),
            ("conv_proj" + ENDS, r"patch.\1"),
            (r"encoder\.ln" + ENDS, r"norm.\1"),
            (_TV_BLOCK + r"self_attention\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
            *_TV_VIT.rules(),
        ),
    ),
    Layout(
        "ViT as in transformers",
        ("vit",),
        r"embeddings\.position_embeddings",
        (
            (r"embeddings\.cls_token", "class_token"),
            (r"embeddings\.position_embeddings", "positions"),
            (r"embeddings\.patch_embeddings\.projection" + ENDS, r"patch.\1"),
            (r"layernorm" + ENDS, r"norm.\1"),
            *_qkv(
                _HF_BLOCK + r"attention\.",
                r"blocks.\1.attn.qkv",
                _HF_QKV,
            ),
            *_HF_VIT.rules(),
        ),
        (*CLASSIFIER, r"pooler\..*"),
    ),
)

_SWIN_BLOCK = r"layers\.(\d)\.blocks\.(\d+)\."
_SWIN_OURS = r"stages.\1.\2."
_SWIN_SAME = r"(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)"
_SWIN_RULES = (
    (r"patch_embed\.proj" + ENDS, r"patch.\1"),
    (r"patch_embed\.norm" + ENDS, r"patch_norm.\1"),
    (_SWIN_BLOCK + _SWIN_SAME + ENDS, _SWIN_OURS + r"\3.\4"),
    (_SWIN_BLOCK + r"attn\.relative_position_bias_table", _SWIN_OURS + "attn.table"),
    (r"norm([123])" + ENDS, r"norms.<1-1>.\2"),  # of detectors
)
_SWIN_DROPPED = (
    *CLASSIFIER,
    r"norm\..*",
    r"norm0\..*",
    r".*\.relative_position_index",
    r".*\.attn_mask",
)
_ACMIX = (
    (_SWIN_BLOCK + r"attn\.fc" + ENDS, _SWIN_OURS + r"attn.conv.mix.\3"),
    (_SWIN_BLOCK + r"attn\.dep_conv\.weight", _SWIN_OURS + "attn.conv.shift"),
    (_SWIN_BLOCK + r"attn\.(rate[12])", _SWIN_OURS + r"attn.\3"),
)
_MERGES = (
    (r"layers\.(\d)\.downsample\.norm" + ENDS, r"merges.\1.norm.\2"),
    (r"layers\.(\d)\.downsample\.reduction\.weight", r"merges.\1.reduce.weight"),
)
_TV_STAGE = r"features\.([1357])\.(\d+)\."
_HF_STAGE = r"encoder\.layers\.(\d)\.blocks\.(\d+)\."
SWIN = (
    Layout(
        "Swin as in timm",
        ("swin",),
        r"layers\.3\.downsample\.norm\.weight",
        (
            *_SWIN_RULES,
            *(
                (rule.replace(r"\.(\d)\.down", r"\.([123])\.down"), ours.replace(r"\1", "<1-1>"))
                for rule, ours in _MERGES
            ),
        ),
        _SWIN_DROPPED,
    ),
    Layout(
        "ACmix-Swin as released",
        ("acmix_swin",),
        r"layers\.0\.blocks\.0\.attn\.dep_conv\.weight",
        (*_SWIN_RULES, *_MERGES, *_ACMIX),
        _SWIN_DROPPED,
    ),
    Layout(
        "Swin as released, and as in detectron2 and Swin-Transformer-Object-Detection",
        ("swin",),
        r"layers\.0\.downsample\.norm\.weight",
        (*_SWIN_RULES, *_MERGES),
        _SWIN_DROPPED,
    ),
    Layout(
        "Swin as in torchvision",
        ("swin",),
        r"features\.1\.0\.attn\.relative_position_bias_table",
        (
            (r"features\.0\.0" + ENDS, r"patch.\1"),
            (r"features\.0\.2" + ENDS, r"patch_norm.\1"),
            (_TV_STAGE + r"(norm1|norm2|attn\.qkv|attn\.proj)" + ENDS, r"stages.<1/2>.\2.\3.\4"),
            (_TV_STAGE + r"attn\.relative_position_bias_table", r"stages.<1/2>.\2.attn.table"),
            (_TV_STAGE + r"mlp\.0" + ENDS, r"stages.<1/2>.\2.mlp.fc1.\3"),
            (_TV_STAGE + r"mlp\.3" + ENDS, r"stages.<1/2>.\2.mlp.fc2.\3"),
            (r"features\.2\.norm" + ENDS, r"merges.0.norm.\1"),
            (r"features\.4\.norm" + ENDS, r"merges.1.norm.\1"),
            (r"features\.6\.norm" + ENDS, r"merges.2.norm.\1"),
            (r"features\.2\.reduction\.weight", "merges.0.reduce.weight"),
            (r"features\.4\.reduction\.weight", "merges.1.reduce.weight"),
            (r"features\.6\.reduction\.weight", "merges.2.reduce.weight"),
        ),
        _SWIN_DROPPED,
    ),
    Layout(
        "Swin as in transformers",
        ("swin",),
        r"encoder\.layers\.0\.blocks\.0\.layernorm_before\.weight",
        (
            (r"embeddings\.patch_embeddings\.projection" + ENDS, r"patch.\1"),
            (r"embeddings\.norm" + ENDS, r"patch_norm.\1"),
            (_HF_STAGE + "layernorm_before" + ENDS, _SWIN_OURS + r"norm1.\3"),
            (_HF_STAGE + "layernorm_after" + ENDS, _SWIN_OURS + r"norm2.\3"),
            *_qkv(_HF_STAGE + r"attention\.", _SWIN_OURS + "attn.qkv", _HF_QKV),
            (
                _HF_STAGE
                + r"attention\.(?:self|relative_position_bias)\.relative_position_bias_table",
                _SWIN_OURS + "attn.table",
            ),
            (
                _HF_STAGE + r"attention\.(?:output\.dense|o_proj)" + ENDS,
                _SWIN_OURS + r"attn.proj.\3",
            ),
            (_HF_STAGE + r"(?:intermediate\.dense|mlp\.fc1)" + ENDS, _SWIN_OURS + r"mlp.fc1.\3"),
            (_HF_STAGE + r"(?:output\.dense|mlp\.fc2)" + ENDS, _SWIN_OURS + r"mlp.fc2.\3"),
            *(("encoder" + r"\." + rule, ours) for rule, ours in _MERGES),
            (r"hidden_states_norms\.stage([234])" + ENDS, r"norms.<1-2>.\2"),
        ),
        (*_SWIN_DROPPED, r"layernorm\..*", r"pooler\..*", r".*\.relative_position_index"),
    ),
)

_DAT = r"stages\.(\d)\."
DAT = (
    Layout(
        "DAT++ as released",
        ("dat",),
        r"stages\.0\.local_perception_units\.0\.weight|stages\.0\.mlps\.0\.chunk\.linear1\.weight",
        (
            (r"patch_proj\.0" + ENDS, r"stem.0.conv.\1"),
            (r"patch_proj\.1\.norm" + ENDS, r"stem.0.norm.\1"),
            (r"patch_proj\.3" + ENDS, r"stem.2.conv.\1"),
            (r"patch_proj\.4\.norm" + ENDS, r"stem.2.norm.\1"),
            (r"down_projs\.(\d)\.0\.weight", r"downs.\1.conv.weight"),
            (r"down_projs\.(\d)\.1\.norm" + ENDS, r"downs.\1.norm.\2"),
            (_DAT + r"layer_norms\.(\d*[02468])\.norm" + ENDS, r"stages.\1.<2/2>.norm1.\3"),
            (_DAT + r"layer_norms\.(\d*[13579])\.norm" + ENDS, r"stages.\1.<2/2>.norm2.\3"),
            (_DAT + r"local_perception_units\.(\d+)" + ENDS, r"stages.\1.\2.local.\3"),
            (_DAT + r"attns\.(\d+)\.proj_([qkv])" + ENDS, r"stages.\1.\2.attn.\3.\4"),
            (_DAT + r"attns\.(\d+)\.(?:proj_out|proj)" + ENDS, r"stages.\1.\2.attn.proj.\3"),
            (_DAT + r"attns\.(\d+)\.qkv" + ENDS, r"stages.\1.\2.attn.qkv.\3"),
            (_DAT + r"attns\.(\d+)\.(?:rpe_table|rpb)", r"stages.\1.\2.attn.table"),
            (_DAT + r"attns\.(\d+)\.conv_offset\.0" + ENDS, r"stages.\1.\2.attn.offset_conv.\3"),
            (
                _DAT + r"attns\.(\d+)\.conv_offset\.1\.norm" + ENDS,
                r"stages.\1.\2.attn.offset_norm.\3",
            ),
            (_DAT + r"attns\.(\d+)\.conv_offset\.3\.weight", r"stages.\1.\2.attn.offset.weight"),
            (
                _DAT + r"mlps\.(\d+)\.(?:linear1\.0|chunk\.linear1)" + ENDS,
                r"stages.\1.\2.mlp.fc1.\3",
            ),
            (
                _DAT + r"mlps\.(\d+)\.(?:linear2\.0|chunk\.linear2)" + ENDS,
                r"stages.\1.\2.mlp.fc2.\3",
            ),
            (_DAT + r"mlps\.(\d+)\.dwc" + ENDS, r"stages.\1.\2.mlp.local.\3"),
        ),
        (r"cls_norm\..*", r"cls_head\..*"),
    ),
)

_BATCH_NORM = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
_RESNET = r"layer([1-4])\.(\d+)\."
_RESNET_OURS = r"stages.<1-1>.\2."
ACMIX_RESNET = (
    Layout(
        "ACmix-ResNet as released",
        ("acmix_resnet",),
        r"layer1\.0\.conv2\.dep_conv\.weight",
        (
            (r"conv1\.weight", "stem.0.weight"),
            ("bn1" + _BATCH_NORM, r"stem.1.\1"),
            (_RESNET + r"conv([13])\.weight", _RESNET_OURS + r"conv\3.weight"),
            (_RESNET + r"bn([123])" + _BATCH_NORM, _RESNET_OURS + r"norm\3.\4"),
            (_RESNET + r"downsample\.0\.weight", _RESNET_OURS + "shortcut.0.weight"),
            (_RESNET + r"downsample\.1" + _BATCH_NORM, _RESNET_OURS + r"shortcut.1.\3"),
            *_qkv(_RESNET + r"conv2\.", _RESNET_OURS + "mixing.qkv", ("conv1", "conv2", "conv3")),
            (_RESNET + r"conv2\.conv_p" + ENDS, _RESNET_OURS + r"mixing.position.\3"),
            (_RESNET + r"conv2\.fc\.weight", _RESNET_OURS + "mixing.conv.mix.weight"),
            (_RESNET + r"conv2\.dep_conv\.weight", _RESNET_OURS + "mixing.conv.shift"),
            (_RESNET + r"conv2\.(rate[12])", _RESNET_OURS + r"mixing.\3"),
        ),
    ),
)

_GL = r"stages\.(\d)\.blocks\.(\d+)\."
_GL_OURS = r"stages.\1.\2."
_GL_RULES = (
    (r"downsample_layers\.([123])\.([01])" + _BATCH_NORM, r"embeds.\1.\2.\3"),
    (_GL + "pos_conv" + ENDS, _GL_OURS + r"position.\3"),
    (_GL + "(norm[12])" + ENDS, _GL_OURS + r"\3.\4"),
    (_GL + "slot_scale", _GL_OURS + "mixing.slot_scale"),
    (_GL + "init_slots", _GL_OURS + "mixing.slots"),
    (_GL + r"relation_mha\.in_proj_(weight|bias)", _GL_OURS + r"mixing.attention.qkv.\3"),
    (_GL + r"relation_mha\.out_proj" + ENDS, _GL_OURS + r"mixing.attention.proj.\3"),
    (_GL + r"feature_conv\.([012])" + ENDS, _GL_OURS + r"mixing.local.\3.\4"),
    (_GL + r"mha_op\.in_proj_(weight|bias)", _GL_OURS + r"mixing.qkv.\3"),
    (_GL + r"mha_op\.out_proj" + ENDS, _GL_OURS + r"mixing.proj.\3"),
    (_GL + r"mlp\.0" + ENDS, _GL_OURS + r"mlp.expand.\3"),
    (_GL + r"mlp\.1" + ENDS, _GL_OURS + r"mlp.local.\3"),
    (_GL + r"mlp\.[23]" + ENDS, _GL_OURS + r"mlp.reduce.\3"),
    (_GL + r"ls([12])\.gamma", r"stages.\1.\2.scales.<3-1>"),
)
GLNET = (
    Layout(
        "GLNet as released (4G, 9G, 16G and their token-labelling forms)",
        ("glnet",),
        r"downsample_layers\.0\.5\.weight",
        (
            *(
                (rf"downsample_layers\.0\.{i}" + _BATCH_NORM, rf"embeds.0.{i - 1}.\1")
                for i in (1, 2, 4, 5)
            ),
            *_GL_RULES,
        ),
        (*CLASSIFIER, r"norm\..*"),
    ),
    Layout(
        "GLNet-STL as released, with pooled or learned slots",
        ("glnet",),
        r"downsample_layers\.0\.0\.weight",
        ((r"downsample_layers\.0\.([01])" + _BATCH_NORM, r"embeds.0.\1.\2"), *_GL_RULES),
        (*CLASSIFIER, r"norm\..*"),
    ),
)
LAYOUTS = (*VIT, *SWIN, *DAT, *ACMIX_RESNET, *GLNET)
# What published files put before a backbone's names, longest first.
PREFIXES = ("module.backbone.", "backbone.bottom_up.", "backbone.", "module.", "vit.", "swin.")
