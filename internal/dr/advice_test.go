package dr

import (
	"errors"
	"fmt"
	"testing"
)

func TestFailurePrintsOnlyTheLinesItHas(t *testing.T) {
	cause := errors.New("disk on fire")
	for _, c := range []struct {
		err  error
		want string
	}{
		{&Failure{What: "open x"}, "open x"},
		{&Failure{What: "open x", Next: "wait"}, "open x\n  next:   wait"},
		{Fail("open x", cause, ""), "open x\n  reason: disk on fire"},
		{Fail("open x", cause, "leave"), "open x\n  reason: disk on fire\n  next:   leave"},
		{Fail("open x", nil, "leave"), "open x\n  next:   leave"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if !errors.Is(Fail("open x", cause, ""), cause) {
		t.Error("the cause of a Failure is not found with errors.Is")
	}
}

func TestAdviceIsTheOutermostOne(t *testing.T) {
	base := errors.New("no route")
	inner := Advise(base, "inner")
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"nil", nil, ""},
		{"none", base, ""},
		{"wrapped", fmt.Errorf("dial: %w", inner), "inner"},
		{"replaced by Advise", Advise(fmt.Errorf("dial: %w", inner), "outer"), "outer"},
		{"replaced by Fail", Fail("dial", inner, "outer"), "outer"},
		{"a Failure without advice lets the inner through", Fail("dial", inner, ""), "inner"},
		{"joined", errors.Join(base, inner), "inner"},
		{"joined Failure", errors.Join(base, Fail("dial", nil, "inner")), "inner"},
	} {
		if got := Advice(c.err); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	if Advise(nil, "x") != nil {
		t.Error("Advise(nil) is not nil")
	}
	if got := inner.Error(); got != "no route" || !errors.Is(inner, base) {
		t.Errorf("Advise changed the error: %q", got)
	}
}
