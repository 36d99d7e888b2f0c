"""Networks with their named loss terms, one file per architecture."""

from microlatent import schemas
from microlatent.config import register

for _name in ("vqvae_z16", "vqvae_z32"):
    register("model", _name, schemas.VQVAEConfig, f"{__name__}.vqvae:VQVAE")
for _name in ("ae_bern", "ae_gauss"):
    register("model", _name, schemas.AEConfig, f"{__name__}.autoencoder:Autoencoder")
for _name in ("vae_bern", "vae_gauss"):
    register("model", _name, schemas.VAEConfig, f"{__name__}.autoencoder:VariationalAutoencoder")
register("model", "kikuchi_cnn", schemas.KikuchiCNNConfig, f"{__name__}.kikuchi_cnn:KikuchiCNN")
register("model", "stain_unet", schemas.StainUNetConfig, f"{__name__}.stain_unet:StainUNet")
register("model", "stain_next", schemas.StainNextConfig, f"{__name__}.stain_next:StainNext")
