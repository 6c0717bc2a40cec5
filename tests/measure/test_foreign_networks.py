"""Networks of others, beside plain fvcore where it is right and beside torch's own counter."""

import pytest
import torch
import torchvision
from fvcore.nn import FlopCountAnalysis

from ctxbench import count

pytestmark = pytest.mark.slow
timm = pytest.importorskip("timm", reason="timm is an optional extra")

X = torch.zeros(1, 3, 224, 224)

# every operation of these is one that fvcore counts exactly
RIGHT_IN_FVCORE = (
    "alexnet", "convnext_tiny", "deeplabv3_mobilenet_v3_large", "densenet121", "efficientnet_b0",
    "efficientnet_v2_s", "googlenet", "inception_v3", "lraspp_mobilenet_v3_large", "mnasnet1_0",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet50",
    "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11",
    "wide_resnet50_2",
)  # fmt: skip

# fvcore gives their attention 0, or rounds their einsum
WRONG_IN_FVCORE = ("maxvit_t", "vit_b_32")


def _torchvision(name):
    options = {"weights_backbone": None} if name.startswith(("deeplab", "lraspp")) else {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return torchvision.models.get_model(name, weights=None, **options).eval()


@pytest.mark.parametrize("name", RIGHT_IN_FVCORE)
def test_equals_plain_fvcore(name):
    model = _torchvision(name)
    plain = FlopCountAnalysis(model, X)
    plain.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.no_grad():
        expected = plain.total()
    assert count(model, X).total("fvcore") == expected


@pytest.mark.parametrize("name", RIGHT_IN_FVCORE + WRONG_IN_FVCORE)
def test_equals_torchs_counter(name):
    counted = count(_torchvision(name), X, cross_check=True)
    assert counted.torch_macs == counted.comparable_macs > 0


# one of each family; the size is that of the input
TIMM = {
    "cait_xxs24_224": 64, "coat_tiny": 224, "coatnet_0_224": 64, "convit_tiny": 224,
    "convmixer_768_32": 64, "convnextv2_atto": 64, "crossvit_tiny_240": 240, "davit_tiny": 64,
    "deit3_small_patch16_224": 64, "dm_nfnet_f0": 64, "ecaresnet26t": 64, "edgenext_xx_small": 64,
    "efficientformer_l1": 224, "efficientformerv2_s0": 64, "efficientvit_b0": 64,
    "fasternet_t0": 64, "fastvit_t8": 64, "focalnet_tiny_lrf": 64, "gcvit_xxtiny": 224,
    "ghostnet_050": 64, "gmlp_ti16_224": 64, "hiera_tiny_224": 224, "hrnet_w18_small": 64,
    "inception_next_atto": 64, "lambda_resnet26t": 128, "levit_128": 224, "mambaout_femto": 64,
    "maxvit_tiny_tf_224": 64, "mixer_s32_224": 64, "mobilenetv4_conv_small": 64,
    "mobileone_s0": 64, "mobilevit_xxs": 64, "mobilevitv2_050": 64, "mvitv2_tiny": 224,
    "nest_tiny": 224, "nextvit_small": 64, "pit_xs_224": 64, "poolformer_s12": 64,
    "pvt_v2_b0": 64, "repvit_m0_9": 64, "resmlp_12_224": 64, "resnest14d": 64,
    "skresnet18": 64, "swiftformer_xs": 64, "swin_tiny_patch4_window7_224": 56,
    "swinv2_cr_tiny_224": 64, "swinv2_tiny_window8_256": 64, "tiny_vit_5m_224": 64,
    "tnt_s_patch16_224": 224, "twins_svt_small": 224, "visformer_tiny": 64,
    "vit_tiny_patch16_224": 64, "volo_d1_224": 64, "xcit_nano_12_p16_224": 64,
}  # fmt: skip


def _timm(name, side):
    try:
        return timm.create_model(name, img_size=side)
    except TypeError:  # a network of any size takes none
        return timm.create_model(name)


@pytest.mark.parametrize("name", TIMM)
def test_timm_networks_have_rules_and_agree_with_torchs_counter(name):
    x = torch.zeros(1, 3, TIMM[name], TIMM[name])
    counted = count(_timm(name, TIMM[name]).eval(), x, cross_check=True)
    assert counted.torch_macs == counted.comparable_macs > 0
