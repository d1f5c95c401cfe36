//! A gateway in trouble: what the application sees, what the provider executes, and what is counted.
