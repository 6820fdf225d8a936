"""Imported by imagetok for its entry point: registers the quantizer and the data source."""

from imagetok_soft_vq import gradients, soft_vq

__all__ = ["gradients", "soft_vq"]
