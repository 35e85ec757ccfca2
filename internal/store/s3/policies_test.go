package s3_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// actions are the rights that each operation needs, by the service authorization reference of Amazon S3.
var actions = map[string][]string{
	"PutObject":                       {"s3:PutObject"},
	"GetObject":                       {"s3:GetObject", "s3:GetObjectVersion"},
	"HeadObject":                      {"s3:GetObject"},
	"HeadBucket":                      {"s3:ListBucket"},
	"ListObjectsV2":                   {"s3:ListBucket"},
	"ListObjectVersions":              {"s3:ListBucketVersions"},
	"DeleteObject":                    {"s3:DeleteObject"},
	"PutObjectRetention":              {"s3:PutObjectRetention"}, // so does a PutObject that asks for a retention
	"GetObjectRetention":              {"s3:GetObjectRetention"}, // whoever extends a lock, where that is refused
	"GetBucketVersioning":             {"s3:GetBucketVersioning"},
	"GetObjectLockConfiguration":      {"s3:GetBucketObjectLockConfiguration"},
	"GetBucketLifecycleConfiguration": {"s3:GetLifecycleConfiguration"},
	"PutBucketVersioning":             nil, // Rights tries it, and hopes to be refused
}

// policy is a document of docs/credentials.md.
type policy struct {
	Version   string
	Statement []struct {
		Sid, Effect string
		Action      []string
		Resource    any // a text, or several
	}
}

// documented returns a policy of docs/credentials.md.
func documented(t *testing.T, name string) policy {
	t.Helper()
	var p policy
	dec := json.NewDecoder(strings.NewReader(storetest.Documents(t)[name]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil || p.Version != "2012-10-17" || len(p.Statement) == 0 {
		t.Fatalf("the policy of a %s: %+v, %v", name, p, err)
	}
	return p
}

// operations returns what the store's code asks of the SDK.
func operations(t *testing.T) map[string]bool {
	t.Helper()
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := call.X.(*ast.SelectorExpr); ok && x.Sel.Name == "client" {
					found[call.Sel.Name] = true
				}
			}
			return true
		})
	}
	return found
}

// The policies name exactly what the code does: nothing is missing, and nothing is there that nobody needs.
func TestPoliciesNameWhatTheStoreDoes(t *testing.T) {
	needed := map[string]bool{}
	for op := range operations(t) {
		rights, known := actions[op]
		if !known {
			t.Errorf("the store does %s: say in actions which right that needs, and put it into docs/credentials.md", op)
		}
		for _, a := range rights {
			needed[a] = true
		}
	}
	for op := range actions {
		if !operations(t)[op] {
			t.Errorf("the store does no %s", op)
		}
	}
	write := []string{"s3:PutObject", "s3:PutObjectRetention", "s3:GetObjectRetention", "s3:DeleteObject"}
	for name, missing := range map[string][]string{"reader": write, "writer": nil, "pruner": nil} {
		have := map[string]bool{}
		for _, s := range documented(t, name).Statement {
			if s.Effect != "Allow" {
				t.Errorf("%s: %+v", name, s)
			}
			for _, a := range s.Action {
				have[a] = true
			}
		}
		want := maps.Clone(needed)
		for _, a := range missing {
			delete(want, a)
		}
		if got, want := slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want)); !slices.Equal(got, want) {
			t.Errorf("a %s may do %q, and the code needs %q", name, got, want)
		}
	}
	var limit []struct {
		Sid, Effect, Resource string
		Action                []string
		Condition             map[string]map[string]string
	}
	if err := json.Unmarshal([]byte(storetest.Documents(t)["limit"]), &limit); err != nil || len(limit) != 2 {
		t.Errorf("the limits of locks: %v, %v", limit, err)
	}
	for _, s := range limit { // what locks an object
		if s.Effect != "Deny" || !slices.Equal(s.Action, []string{"s3:PutObject", "s3:PutObjectRetention"}) {
			t.Errorf("the limits of locks: %+v", s)
		}
	}
	var rule map[string]any
	if err := json.Unmarshal([]byte(storetest.Documents(t)["lifecycle"]), &rule); err != nil {
		t.Errorf("the lifecycle rule: %v", err)
	}
}
