"""NIfTI, NRRD, MHA and DICOM to the challenge's case files, and label maps back to where the image lies."""
