"""Networks with their named loss terms, one file per architecture."""

from microlatent import schemas
from microlatent.config import register

for _name in ("vqvae_z16", "vqvae_z32"):
    register("model", _name, schemas.VQVAEConfig, "microlatent.models.vqvae:VQVAE")
for _name in ("ae_bern", "ae_gauss"):
    register("model", _name, schemas.AEConfig, "microlatent.models.autoencoder:Autoencoder")
for _name in ("vae_bern", "vae_gauss"):
    register("model", _name, schemas.VAEConfig, "microlatent.models.autoencoder:VariationalAutoencoder")
register("model", "kikuchi_cnn", schemas.KikuchiCNNConfig, "microlatent.models.kikuchi_cnn:KikuchiCNN")
