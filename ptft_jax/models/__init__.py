"""config → layers, attention → encoder, heads → build; partition maps logical axes to the mesh."""
