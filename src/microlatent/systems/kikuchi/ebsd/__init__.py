"""EBSD scans and maps, whatever wrote them, behind one interface: ``Scan``.

==================  =============================================================================================================
Oxford H5OINA       5.0 to 8.0, processed or unprocessed patterns, band contrast, EDS; 1.0 to 4.0 and files without: a map alone
EDAX h5             of OIM, square grids, IQ; without patterns a map alone, as .edaxh5 of APEX always
EDAX UP1, UP2       version 1 (map of the .ang, .oh5 or .edaxh5 of its name, else one row) and from 3 on; not 2, not hexagonal
Bruker h5           patterns in the order of acquisition, Radon quality, rectangular regions
kikuchipy h5        with its crystal map
EMsoft h5           simulated patterns: one row
NORDIF              folder of Pattern.dat, Setting.txt and the background's bmp
Oxford .ebsp        versions 0 to 6, uncompressed
pattern table h5    /images and /coords of the kikuchi reference; the map may have holes
pattern images      tif, png, bmp, jpg named x_<i>_y_<j>, <scan>_x_<i>_y_<j>, or <j>_<i>; the map may have holes
HKL ctf, cpr / crc  maps without patterns
EDAX ang            a map without patterns, on a square grid
CSV                 a map of x, y and any columns
==================  =============================================================================================================

Scans are recognised by content, and read lazily: ``find_scans`` reads what is known of points, ``Scan.read`` the patterns of the
points asked for and no others.
"""

from microlatent.systems.kikuchi.ebsd.find import find_scans
from microlatent.systems.kikuchi.ebsd.maps import join_maps, read_map
from microlatent.systems.kikuchi.ebsd.scan import Scan

__all__ = ["Scan", "find_scans", "join_maps", "read_map"]
