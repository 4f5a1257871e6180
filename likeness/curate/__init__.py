"""Raw clips in, a dataset of faces and pairs out (Concat-ID, section 4.2 and appendices A.1 and B)."""
