"""Brief training, its losses, distillation and metrics."""
