package mount

// settling is a sync that goes on behind the first steps.
type settling struct {
	done chan struct{} // nil: there is none
	err  error
}

func (s *settling) begin(sync func() error) {
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		s.err = sync()
	}()
}

func (s *settling) wait() error {
	if s.done == nil {
		return nil
	}
	<-s.done
	return s.err
}
