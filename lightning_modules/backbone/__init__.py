"""The backbone in plain torch: composition encoder, XRD encoder and cross-attention fusion."""
