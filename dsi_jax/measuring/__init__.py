"""What forwards of a pair take on the devices at hand: the same programs as the runtime's, timed one by one."""
