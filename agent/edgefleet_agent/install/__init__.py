"""Installing a bundle on the device: `machine` decides, `runner` acts, `journal` and `slots` remember."""
