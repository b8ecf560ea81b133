"""What drivers of programs on a Linux host share: processes that outlive the agent, users of their own, cgroups."""
