"""Pictures from users: files here or in a bucket, every page of each as an array, or the reason why not."""

from ecgscan_ray.pictures.files import PictureFile, is_file, pictures_under, printable_name
from ecgscan_ray.pictures.picture import Picture, read_file, read_pages, read_picture

__all__ = [
    "Picture",
    "PictureFile",
    "is_file",
    "pictures_under",
    "printable_name",
    "read_file",
    "read_pages",
    "read_picture",
]
