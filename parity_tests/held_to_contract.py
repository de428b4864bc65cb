"""For a type checker, which reads this and runs nothing: the three implementations keep the contract."""

import keras
import torch

import keras_impl
import keras_impl.backend
import keras_impl.gradients
import tf1_style_impl
import tf1_style_impl.backend
import tf1_style_impl.gradients
import torch_impl
import torch_impl.backend
import torch_impl.gradients
from common.implementations.contract import Backend, Gradients, Implementation

_torch: Implementation[torch.nn.Module] = torch_impl
_torch_backend: Backend[torch.nn.Module] = torch_impl.backend
_torch_gradients: Gradients[torch.nn.Module] = torch_impl.gradients
_keras: Implementation[keras.Model] = keras_impl
_keras_backend: Backend[keras.Model] = keras_impl.backend
_keras_gradients: Gradients[keras.Model] = keras_impl.gradients
_tf1: Implementation[object] = tf1_style_impl
_tf1_backend: Backend[object] = tf1_style_impl.backend
_tf1_gradients: Gradients[object] = tf1_style_impl.gradients
