"""What the layer does on TensorFlow alone. Imported only where TensorFlow is Keras' backend, and so already is."""
