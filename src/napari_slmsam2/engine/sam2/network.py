"""The SLM-SAM 2 network, built out of the ``sam2`` package's modules.

With ``short_memory_slices=0`` it is SAM 2.1.
Parameter names are the published ones, of SAM 2.1 and of SLM-SAM 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.engine.sam2._imports import (
    MLP,
    CXBlock,
    Fuser,
    MaskDecoder,
    MemoryAttentionLayer,
    SAM2Base,
    TwoWayTransformer,
    get_1d_sine_pe,
)
from napari_slmsam2.engine.sam2.modules import (
    SlicePromptEncoder,
    build_image_encoder,
    build_memory_attention,
    build_memory_encoder,
    sine_position,
)
from napari_slmsam2.engine.sam2.tensors import ImageEmbedding, MemoryTokens, SliceOutput

#: Distances that are encoded together.
_BLOCK = 64

_ABSENT = -1024.0
"""SAM 2's mask logits where the object is absent."""


class SliceNetwork(SAM2Base):
    """SAM 2.1 with an optional short-term memory beside its long-term one.

    Parameters
    ----------
    config : ModelConfig

    Notes
    -----
    "Long-term" and "short-term" are used in SLM-SAM 2's sense: the long-term memory is SAM 2's own
    (all seeds and the last six slices), the short-term one reads the last ``short_memory_slices``
    slices with weights of its own (Chen et al., arXiv:2505.01854, section 3). In XMem and Cutie
    "long-term" means compressed memory.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        is_2_1 = config.sam_version == "2.1"
        super().__init__(
            image_encoder=build_image_encoder(config),
            memory_attention=build_memory_attention(config),
            memory_encoder=build_memory_encoder(config),
            num_maskmem=config.memory_slices,
            image_size=config.image_size,
            backbone_stride=16,
            sigmoid_scale_for_mem_enc=20.0,
            sigmoid_bias_for_mem_enc=-10.0,
            binarize_mask_from_pts_for_mem_enc=True,
            use_mask_input_as_output_without_sam=True,
            directly_add_no_mem_embed=True,
            use_high_res_features_in_sam=True,
            multimask_output_in_sam=True,
            multimask_min_pt_num=0,
            multimask_max_pt_num=1,
            multimask_output_for_tracking=True,
            use_multimask_token_for_obj_ptr=True,
            iou_prediction_use_sigmoid=True,
            use_obj_ptrs_in_encoder=True,
            max_obj_ptrs_in_encoder=config.max_pointers,
            add_tpos_enc_to_obj_ptrs=is_2_1,
            proj_tpos_enc_in_obj_ptrs=is_2_1,
            use_signed_tpos_enc_to_obj_ptrs=is_2_1,
            only_obj_ptrs_in_the_past_for_eval=True,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
            fixed_no_obj_ptr=True,
            use_mlp_for_obj_ptr_proj=True,
            no_obj_embed_spatial=is_2_1,
        )
        if config.has_short_memory:
            self.recent_memory_attention = build_memory_attention(config)
            if config.fusion == "sum":
                self.recent_memory_fuser = Fuser(
                    CXBlock(config.model_dim, layer_scale_init_value=config.fuser_layer_scale),
                    config.fuser_layers,
                )
            else:
                self.recent_memory_gate = nn.Conv2d(2 * config.model_dim, config.model_dim, 1)
                for parameter in self.recent_memory_gate.parameters():
                    nn.init.zeros_(parameter)
            rows = config.short_time_rows or config.memory_slices
            self.rec_maskmem_tpos_enc = nn.Parameter(torch.zeros(rows, 1, 1, config.memory_dim))
        grid = config.image_size // 16
        self.register_buffer(
            "_feature_position", sine_position(config.model_dim, grid), persistent=False
        )
        self.register_buffer(
            "_memory_position", sine_position(config.memory_dim, grid), persistent=False
        )

    def _build_sam_heads(self) -> None:
        """SAM 2's heads with the widths of the configuration."""
        c = self.config
        grid = c.image_size // 16
        self.sam_prompt_embed_dim = c.model_dim
        self.sam_image_embedding_size = grid
        self.sam_prompt_encoder = SlicePromptEncoder(
            embed_dim=c.model_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(c.image_size, c.image_size),
            mask_in_chans=c.mask_channels,
        )
        self.sam_mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=c.decoder_layers,
                embedding_dim=c.model_dim,
                mlp_dim=c.decoder_mlp_dim,
                num_heads=c.decoder_heads,
            ),
            transformer_dim=c.model_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=c.iou_head_dim,
            use_high_res_features=True,
            iou_prediction_use_sigmoid=True,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
            use_multimask_token_for_obj_ptr=True,
            dynamic_multimask_via_stability=True,
            dynamic_multimask_stability_delta=0.05,
            dynamic_multimask_stability_thresh=0.98,
        )
        self.obj_ptr_proj = MLP(c.model_dim, c.model_dim, c.model_dim, 3)
        self.obj_ptr_tpos_proj = (
            nn.Linear(c.model_dim, c.memory_dim) if c.sam_version == "2.1" else nn.Identity()
        )

    def pool_memory(self, size: int) -> None:
        """Average ``size`` x ``size`` memory tokens in the memory attentions; 1 is exact."""
        for module in self.modules():
            if isinstance(module, MemoryAttentionLayer):
                module.cross_attn_image.pooling = size

    def encode_image(self, image: Tensor) -> ImageEmbedding:
        """Encode one slice, or N slices at once.

        Parameters
        ----------
        image : Tensor, shape (N * D, 3, S, S)
            Normalised by the mean and standard deviation of ImageNet. D is
            ``config.encoded_slices``: the slice in the middle of its neighbours.

        Returns
        -------
        ImageEmbedding
            Its tensors have the length N.
        """
        fine, middle, feature = self.forward_image(image)["backbone_fpn"]
        return ImageEmbedding(feature, (fine, middle))

    def prompt_mask(self, embedding: ImageEmbedding, masks: Tensor) -> SliceOutput:
        """Take masks as they are; the decoder only makes their pointers.

        Parameters
        ----------
        embedding : ImageEmbedding
        masks : Tensor of float, shape (B, 1, S, S)
            0 or 1. An empty mask means that the object is absent.
        """
        feature, high_res = _expand(embedding, len(masks))
        return _output(self._use_mask_as_output(feature, high_res, masks))

    def prompt_points(
        self,
        embedding: ImageEmbedding,
        coordinates: Tensor,
        labels: Tensor,
        previous_logits: Tensor | None = None,
        memory: tuple[MemoryTokens, MemoryTokens] | None = None,
    ) -> SliceOutput:
        """Segment from clicks and boxes.

        Parameters
        ----------
        embedding : ImageEmbedding
        coordinates : Tensor, shape (B, P, 2)
            ``(x, y)`` in pixels of the network's input.
        labels : Tensor of int32, shape (B, P)
            1 inside, 0 outside, 2 and 3 the corners of a box.
        previous_logits : Tensor, shape (B, 1, S/4, S/4), optional
            Low-resolution logits that the clicks refine.
        memory : tuple of MemoryTokens, optional
            Long-term and short-term memory; with it the clicks correct a tracked slice.
        """
        batch = len(coordinates)
        _, high_res = _expand(embedding, batch)
        conditioned = (
            self.without_memory(embedding, batch)
            if memory is None
            else self.condition(embedding, *memory)
        )
        points = {"point_coords": coordinates, "point_labels": labels}
        heads = self._forward_sam_heads(
            conditioned,
            point_inputs=points,
            mask_inputs=None if previous_logits is None else previous_logits.clamp(-32.0, 32.0),
            high_res_features=high_res,
            multimask_output=self._use_multimask(memory is None, points),
        )
        return _output(heads)

    def track(
        self, embedding: ImageEmbedding, long: MemoryTokens, short: MemoryTokens
    ) -> SliceOutput:
        """Segment from memory alone.

        Parameters
        ----------
        embedding : ImageEmbedding
        long, short : MemoryTokens
            ``short`` is not read by a network without a short-term memory.
        """
        return self._segment_conditioned(embedding, self.condition(embedding, long, short))

    def _segment_conditioned(self, embedding: ImageEmbedding, conditioned: Tensor) -> SliceOutput:
        """SAM 2's mask decoder without a prompt, and its selection among three masks.

        As ``SAM2Base._forward_sam_heads``, without what only prompts and training need.
        """
        batch = len(conditioned)
        _, high_res = _expand(embedding, batch)
        tokens, dense = self.sam_prompt_encoder.without_prompt(batch)
        masks, ious, mask_tokens, presence = self.sam_mask_decoder(
            image_embeddings=conditioned,
            image_pe=self.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=tokens,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=high_res,
        )
        is_present = presence > 0
        best, best_iou = ious.argmax(dim=1), ious.amax(dim=1)
        labels = torch.arange(batch, device=best.device)
        masks = masks[labels, best].unsqueeze(1)
        low_res = torch.where(is_present[:, :, None, None], masks, _ABSENT).float()
        pointer = self.obj_ptr_proj(mask_tokens[labels, best])
        share = is_present.float()
        pointer = share * pointer + (1 - share) * self.no_obj_ptr
        return SliceOutput(low_res, presence.float(), pointer, best_iou.float())

    def condition(
        self, embedding: ImageEmbedding, long: MemoryTokens, short: MemoryTokens
    ) -> Tensor:
        """Bring the memories into the image feature.

        An empty short-term memory (nothing was visited beside this slice) is replaced by the
        long-term one; the published code fails there.

        Returns
        -------
        Tensor, shape (B, C, h, w)
        """
        from_long = self._attend(embedding, long, self.memory_attention, self.maskmem_tpos_enc)
        if not self.config.has_short_memory:
            return from_long
        if short:
            table = (
                self.maskmem_tpos_enc
                if self.config.short_time_rows is None
                else self.rec_maskmem_tpos_enc
            )
            from_short = self._attend(embedding, short, self.recent_memory_attention, table)
        else:
            from_short = from_long
        return self._fuse(from_long, from_short)

    def encode_memory(
        self, feature: Tensor, low_res_logits: Tensor, presence_logit: Tensor, *, prompted: bool
    ) -> Tensor:
        """The memory maps of B labels on one slice.

        Parameters
        ----------
        feature : Tensor, shape (1, C, h, w)
            Of the slice, see `ImageEmbedding`.
        low_res_logits, presence_logit : Tensor
            Of the labels, see `SliceOutput`.
        prompted : bool
            The masks of annotated slices are made binary first.

        Returns
        -------
        Tensor, shape (B, M, h, w)
        """
        size = (self.image_size, self.image_size)
        masks = F.interpolate(low_res_logits, size=size, mode="bilinear", align_corners=False)
        expanded = feature.expand(len(masks), -1, -1, -1)
        maps, _ = self._encode_new_memory(
            current_vision_feats=[expanded.flatten(2).permute(2, 0, 1)],
            feat_sizes=[feature.shape[-2:]],
            pred_masks_high_res=masks,
            object_score_logits=presence_logit,
            is_mask_from_pts=prompted,
        )
        return maps

    def without_memory(self, embedding: ImageEmbedding, batch: int) -> Tensor:
        """What the decoder sees of a slice that is read without memory, shape (B, C, h, w)."""
        feature, _ = _expand(embedding, batch)
        plain = feature + self.no_mem_embed.view(1, -1, 1, 1)
        return self._fuse(plain, plain) if self.config.has_short_memory else plain

    def _fuse(self, long: Tensor, short: Tensor) -> Tensor:
        if self.config.fusion == "sum":
            return self.recent_memory_fuser(short + long)
        gate = torch.tanh(self.recent_memory_gate(torch.cat([long, short], dim=1)))
        return long + gate * (short - long)

    def _attend(
        self,
        embedding: ImageEmbedding,
        tokens: MemoryTokens,
        attention: nn.Module,
        time_table: Tensor,
    ) -> Tensor:
        assert tokens.maps is not None
        feature = embedding.feature
        batch = tokens.maps.shape[1]
        _, channels, height, width = feature.shape
        memory, position, pointer_tokens = self._memory_sequence(tokens, time_table, feature.dtype)
        attended = attention(
            curr=feature.flatten(2).permute(2, 0, 1).expand(-1, batch, -1),
            curr_pos=self._feature_position.to(feature.dtype).expand(-1, batch, -1),
            memory=memory,
            memory_pos=position,
            num_obj_ptr_tokens=pointer_tokens,
        )
        return attended.permute(1, 2, 0).reshape(batch, channels, height, width)

    def _memory_sequence(
        self, tokens: MemoryTokens, time_table: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, int]:
        """Tokens and their positions, each of shape (tokens, B, M), and the tokens of pointers."""
        assert tokens.maps is not None
        batch = tokens.maps.shape[1]
        memory = tokens.maps.flatten(3).permute(0, 3, 1, 2).flatten(0, 1).to(dtype)
        times = torch.cat([time_table[row] for row in tokens.rows])
        position = (self._memory_position[None, :, 0] + times).flatten(0, 1).to(dtype)
        count = 0
        if tokens.pointers is not None:
            assert tokens.distances is not None
            pieces = self.hidden_dim // self.mem_dim
            pointers = tokens.pointers.to(dtype).reshape(-1, batch, pieces, self.mem_dim)
            memory = torch.cat([memory, pointers.transpose(1, 2).flatten(0, 1)])
            encoded = self._pointer_positions(tokens.distances).to(dtype)
            encoded = encoded[:, None].expand(-1, pieces, -1)
            position = torch.cat([position, encoded.flatten(0, 1)])
            count = pieces * len(tokens.pointers)
        return memory, position[:, None].expand(-1, batch, -1), count

    def _pointer_positions(self, distances: Tensor) -> Tensor:
        """Encoding of the distances of object pointers, shape (P, M); SAM 2.0 has none."""
        if self.config.sam_version == "2.0":
            return distances.new_zeros(len(distances), self.mem_dim)
        return self.obj_ptr_tpos_proj(distances)


def encode_distances(
    distances: Sequence[int], longest: int, channels: int, device: torch.device
) -> Tensor:
    """SAM 2's sine encoding of distances in slices, from a table on the device.

    Parameters
    ----------
    distances : sequence of int
        Not negative.
    longest : int
        Distance that is encoded as 1.
    channels : int
    device : torch.device

    Returns
    -------
    Tensor of float32, shape (distances, channels)
    """
    rows = []
    for distance in distances:
        block, row = divmod(distance, _BLOCK)
        rows.append(_distance_table(block, longest, channels, device)[row])
    return torch.stack(rows)


@lru_cache(maxsize=128)
def _distance_table(block: int, longest: int, channels: int, device: torch.device) -> Tensor:
    """The encoding of a block of distances; made on the device, so that nothing is copied to it."""
    with torch.inference_mode(mode=False):
        distances = torch.arange(block * _BLOCK, (block + 1) * _BLOCK, device=device)
        return get_1d_sine_pe(distances / longest, dim=channels)


def _expand(embedding: ImageEmbedding, batch: int) -> tuple[Tensor, list[Tensor]]:
    return (
        embedding.feature.expand(batch, -1, -1, -1),
        [m.expand(batch, -1, -1, -1) for m in embedding.high_res],
    )


def _output(heads: tuple[Any, ...]) -> SliceOutput:
    _, _, ious, low_res, _, pointer, presence = heads
    return SliceOutput(low_res, presence.float(), pointer, ious.amax(dim=1).float())
