package restore_test

func restoreMain() int { return 0 }
