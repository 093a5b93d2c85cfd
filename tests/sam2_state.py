"""SAM 2's own inference state, made without a video file."""

from __future__ import annotations

from collections import OrderedDict

import torch


def sam2_state(images: torch.Tensor, shape: tuple[int, int]) -> dict:
    """What ``SAM2VideoPredictor.init_state`` makes, with tensors in place of a video.

    Parameters
    ----------
    images : Tensor, shape (T, 3, S, S)
        On the device of the predictor.
    shape : tuple of int
        ``(H, W)`` of the masks to come out.
    """
    state = {
        "images": images,
        "num_frames": len(images),
        "offload_video_to_cpu": False,
        "offload_state_to_cpu": False,
        "video_height": shape[0],
        "video_width": shape[1],
        "device": images.device,
        "storage_device": images.device,
        "obj_id_to_idx": OrderedDict(),
        "obj_idx_to_id": OrderedDict(),
        "obj_ids": [],
    }
    for name in (
        "point_inputs_per_obj",
        "mask_inputs_per_obj",
        "cached_features",
        "constants",
        "output_dict_per_obj",
        "temp_output_dict_per_obj",
        "frames_tracked_per_obj",
    ):
        state[name] = {}
    return state
