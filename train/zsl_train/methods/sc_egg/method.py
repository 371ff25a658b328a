"""SC-EGG: semantic compression embedding guided generation (Hong et al., IJCAI 2022).

Three stages. (1) SCEN: attention over regions, one map an attribute, trained by the local (Eq. 6) and the global
(Eq. 7) classification loss. (2) The guide: a classifier of the compressed feature f learns to give the local network's
class scores (Eq. 8), those of the unseen classes included. (3) EGGN: TF-VAEGAN on f, its generator guided by the guide
on seen and on unseen classes (Eq. 13-15). The published classifier looks at [f, Dec(f), hidden].

Ours, in preset `default`: the guide learns the local network's attribute evidence e in place of the class scores e . a,
so that it can judge features of any attribute vector; and the generator is guided on virtual classes, whose attributes
are mixed from those of seen ones, in place of the unseen classes that happen to be known: a class that comes later is
then like one that was known (compare Elhoseiny and Elfeki, ICCV 2019; Zhang et al., IGCZSL, 2023). The feature is the
compressed one before scaling and the evidence beside it, [g, e]: the generator alone loses what the local network has.

Where the paper and the published code differ, both are options of `Config`; the values of each are in docs/methods.md 2
(paper [P], code [C]). The (B, A, V) tensor of attribute-level features h is never made: with q_n = v_n W_alpha and
k_n = v_n W_beta, the attribute score is e_n = sum_r alpha_nr (k_n . r_r), and mean pooling is
sum_r (mean_n alpha_nr) r_r. Only `mlp` pooling needs a hidden layer of width A/2 per channel, and even that is
computed as (W1 alpha) r, with the sum over regions after the product with W1.

On plain feature vectors (one region a picture) there is nothing to attend to: stages 1 and 2 are skipped, f is the
vector itself, scaled, and EGGN is trained alone. Its guide is then attribute evidence by closed-form semantic
regression (`zsl_train.methods.semantic_guide`); the log says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from zsl_train.devices import tensor_of
from zsl_train.methods import tf_vaegan
from zsl_train.methods.pooled import pooled_features
from zsl_train.methods.sc_egg.config import Config, gan_settings
from zsl_train.methods.sc_egg.eggn import train_eggn
from zsl_train.methods.sc_egg.embedder import Embedder, beside
from zsl_train.methods.sc_egg.guide import Guide, guide_layers, train_guide
from zsl_train.methods.sc_egg.parts import GuideOnPictures, parts_of
from zsl_train.methods.sc_egg.scen import train_scen
from zsl_train.methods.semantic_guide import semantic_guide
from zsl_train.nets import PooledEmbedder

if TYPE_CHECKING:
    from zsl_train.methods.base import Dims, Trained, TrainingData
    from zsl_train.methods.session import Session


def build(config: Config, dims: Dims) -> Trained:
    """The shipped modules for these sizes, untrained."""
    settings = gan_settings(config, dims.regions)
    if dims.regions == 1:
        return tf_vaegan.build_around(settings, PooledEmbedder(dims.channels, config.scaling), dims)
    embedder = Embedder(dims.attributes, dims.channels, config.pooling, evidence=config.feature == "evidence")
    trained = tf_vaegan.build_around(settings, embedder, dims)
    if config.feature == "compressed":
        return trained
    return beside(trained, embedder, guide_layers(config, dims.channels, dims.attributes))


def fit(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """Train SC-EGG: stages 1 to 3 (paper, Algorithm 1), or on plain vectors (R = 1) the third alone.

    Args:
        data: region features, word vectors and semantic vectors of seen and unseen classes.
        config: settings.
        session: logs, checkpoints and snapshots.
        seed: of everything random; the same seed gives the same weights on one machine.

    Raises:
        GateError: E-DIVERGED.

    """
    if data.dims.regions == 1:
        return fit_plain(data, config, session, seed + 2)
    scen = train_scen(data, config, session, seed)
    guide, features = train_guide(data, scen, config, session, seed + 1)
    parts = parts_of(scen, guide, tensor_of(data.semantic))
    made = train_eggn(features, data, guide, scen.embedder, config, parts=parts, session=session, seed=seed + 2)
    return made.eval()


def fit_plain(data: TrainingData, config: Config, session: Session, seed: int) -> Trained:
    """The EGGN half on plain feature vectors, guided by closed-form semantic regression."""
    embedder, features = pooled_features(data, config.scaling)
    labels, semantic = tensor_of(data.labels), tensor_of(data.semantic)
    layers: nn.Module = nn.Identity()
    if config.seen_guidance > 0 or config.unseen_guidance > 0:
        layers, choice = semantic_guide(features, labels, semantic, tensor_of(data.table.seen))
        session.note(f"the guide is attribute evidence by semantic regression: {choice}")
    session.note("one region a picture, nothing to attend to: only the third stage of SC-EGG, EGGN, is trained")
    guide = Guide(layers, evidence=True)
    parts: dict[str, nn.Module] = {}
    if isinstance(layers, nn.Linear):
        parts = {"guide": GuideOnPictures(embedder, guide, semantic)}
    return train_eggn(features, data, guide, embedder, config, parts=parts, session=session, seed=seed).eval()
