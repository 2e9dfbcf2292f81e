package poll

// Cohorts is how many cohorts are kept.
func Cohorts(w *Waiters) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.cohorts)
}
