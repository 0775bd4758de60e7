"""The network between the nodes, measured under MPI.

:mod:`~clusterctl.fabric.schedule` says who talks to whom, :mod:`~clusterctl.fabric.worker` runs
under MPI, :mod:`~clusterctl.fabric.supervise` keeps what runs on a node from outliving its use,
and :mod:`~clusterctl.fabric.launch` drives all of it from the controller.
"""
