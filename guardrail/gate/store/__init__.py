"""MLflow's registry store, guarded: what each of its methods may do, and which names its database takes for one."""
