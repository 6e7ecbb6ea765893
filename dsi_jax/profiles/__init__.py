"""What forwards of a pair cost on one kind of chip: the record, and how it is made from shapes alone."""
