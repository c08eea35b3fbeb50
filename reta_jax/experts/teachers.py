"""The frozen teachers of the training losses, as one pytree of weights with methods.

Their weights are arguments of the step, never constants of the compiled program.
"""

from typing import Any

import flax.linen as nn
import flax.struct
from jaxtyping import Array

from reta_jax.experts.landmark_net import lower_face
from reta_jax.experts.syncnet import SyncNetExpert, frames_to_input


class Experts(flax.struct.PyTreeNode):
    """Networks with their variables; None where no loss needs them."""

    teacher_variables: Any
    sync_variables: Any
    vgg_variables: Any
    lips_variables: Any
    teacher: nn.Module | None = flax.struct.field(pytree_node=False)  # T: EmotionViT
    sync: nn.Module | None = flax.struct.field(pytree_node=False)  # SyncNetExpert
    vgg: nn.Module | None = flax.struct.field(pytree_node=False)  # VGG19
    lips: nn.Module | None = flax.struct.field(pytree_node=False)  # LandmarkNet

    def teach(self, images: Array) -> tuple[Array, Array]:
        """f_V (n, d) and emotion logits (n, classes) of images (n, h, w, 3)."""
        return self.teacher.apply(self.teacher_variables, images)

    def perceive(self, images: Array) -> tuple[Array, ...]:
        """The five VGG taps of images (n, h, w, 3)."""
        return self.vgg.apply(self.vgg_variables, images)

    def embed_faces(self, frames: Array, box: Array) -> Array:
        """Embeddings of five frames (b, 5, h, w, 3) cropped to the box (b, 4)."""
        return self.sync.apply(
            self.sync_variables, frames_to_input(frames, box), method=SyncNetExpert.embed_faces
        )

    def embed_voice(self, mel: Array) -> Array:
        """Embeddings of mel windows (b, 80, 16)."""
        return self.sync.apply(self.sync_variables, mel, method=SyncNetExpert.embed_audio)

    def find_lips(self, images: Array, box: Array) -> Array:
        """The mouth's points (n, 20, 2) of images (n, h, w, 3) with the faces' boxes (n, 4)."""
        return self.lips.apply(self.lips_variables, lower_face(images, box, self.lips.size))
