package dr

// Progress is how far a long operation has come. Total is 0 where the end is not known; it may grow.
type Progress struct {
	Phase string // what is being done, as a person says it: "reading orders-db", "writing files"
	Done  Bytes
	Total Bytes
}

// ProgressFunc is told of progress. It returns at once, may be called from several goroutines and as often as
// the caller likes; whoever implements it throws away what comes too often. Callers accept nil for "nobody
// listens".
type ProgressFunc func(Progress)
