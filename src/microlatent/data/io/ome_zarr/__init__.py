"""OME-Zarr: plates, fields and single images, read lazily as (T, C, Z, Y, X) whatever axes are stored.

NGFF 0.4 (zarr 2) and 0.5 (zarr 3, sharded or not), and what older versions have in common with them. Only the metadata say what
is called what: wells, fields, levels and channels may have any name. An axis that is not stored has length 1.

A chunk that was never written reads as the fill value, mostly zero. ``Level.stored`` tells it from a chunk of zeros. (Some
writers leave out chunks that are all zero; no camera counts exactly zero in a whole chunk, so these count as missing as well.)

Source: NGFF 0.4 and 0.5, https://ngff.openmicroscopy.org; the index of a shard: zarr 3, codec sharding_indexed 1.0.
"""
