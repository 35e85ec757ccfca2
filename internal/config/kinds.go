package config

import (
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// kind reads, prints and describes the values of one type. Everything that is wrong with a value is added to
// the report, never returned, so that reading goes on and finds the rest.
type kind[V any] interface {
	decode(r *report, n *yaml.Node, path string, into *V)
	encode(v V) *yaml.Node
	schema() jsonSchema
}

// object is a mapping with known keys.
type object[T any] []field[T]

// field is one key of an object of type T; its value's type is known to the closures only.
type field[T any] struct {
	name     string
	doc      string
	required bool
	fallback string // what stands for the key where it is left out, as YAML; "" for nothing
	decode   func(r *report, n *yaml.Node, path string, into *T)
	encode   func(from *T) *yaml.Node
	schema   func() jsonSchema
}

// key describes a key whose value is of a kind and is kept at a place in T.
func key[T, V any](name string, k kind[V], at func(*T) *V, doc string) field[T] {
	return field[T]{
		name: name, doc: doc,
		decode: func(r *report, n *yaml.Node, path string, into *T) { k.decode(r, n, path, at(into)) },
		encode: func(from *T) *yaml.Node { return k.encode(*at(from)) },
		schema: k.schema,
	}
}

// must says that the key may not be left out.
func (f field[T]) must() field[T] { f.required = true; return f }

// or says what is read where the key is left out.
func (f field[T]) or(fallback string) field[T] { f.fallback = fallback; return f }

func (o object[T]) decode(r *report, n *yaml.Node, path string, into *T) {
	if !r.wantMapping(n, path) {
		return
	}
	given := r.pairs(n, path)
	for _, p := range given {
		if !slices.ContainsFunc(o, func(f field[T]) bool { return f.name == p.key.Value }) {
			r.unknownKey(p.key, path, o.names())
		}
	}
	for _, f := range o {
		sub := join(path, f.name)
		i := slices.IndexFunc(given, func(p pair) bool { return p.key.Value == f.name })
		switch {
		case i >= 0:
			r.places[sub] = placeOf(given[i].value)
			f.decode(r, given[i].value, sub, into)
		case f.required:
			r.add(placeOf(n), within(path)+" lacks the key "+quote(f.name), f.doc, "")
		case f.fallback != "":
			f.decode(r, fallbackNode(f.fallback, n), sub, into)
		}
	}
}

func (o object[T]) encode(v T) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range o {
		value := f.encode(&v)
		if left := value.Value == "" && len(value.Content) == 0; left && !f.required && (f.fallback == "" || f.fallback == "{}") {
			continue // nothing is what this key means when it is left out
		}
		n.Content = append(n.Content, text(f.name), value)
	}
	return n
}

func (o object[T]) schema() jsonSchema {
	properties, required := jsonSchema{}, []string{}
	for _, f := range o {
		s := maps.Clone(f.schema())
		s["description"] = f.doc
		if f.fallback != "" && f.fallback != "{}" {
			s["default"] = fallbackJSON(f.fallback)
		}
		properties[f.name] = s
		if f.required {
			required = append(required, f.name)
		}
	}
	s := jsonSchema{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func (o object[T]) names() []string {
	var names []string
	for _, f := range o {
		names = append(names, f.name)
	}
	return names
}

// dict is a mapping from names to values of one kind.
type dict[K ~string, V any] struct{ of kind[V] }

func (d dict[K, V]) decode(r *report, n *yaml.Node, path string, into *map[K]V) {
	*into = map[K]V{}
	if !r.wantMapping(n, path) {
		return
	}
	for _, p := range r.pairs(n, path) {
		if err := dr.CheckName(p.key.Value); err != nil {
			r.add(placeOf(p.key), quote(p.key.Value)+" is no name for an element of "+path, err.Error(), "")
			continue
		}
		sub := join(path, p.key.Value)
		r.places[sub] = placeOf(p.key)
		var v V
		d.of.decode(r, p.value, sub, &v)
		(*into)[K(p.key.Value)] = v
	}
}

func (d dict[K, V]) encode(m map[K]V) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		n.Content = append(n.Content, text(string(k)), d.of.encode(m[k]))
	}
	return n
}

func (d dict[K, V]) schema() jsonSchema {
	return jsonSchema{
		"type":                 "object",
		"propertyNames":        jsonSchema{"pattern": "^[a-z0-9][a-z0-9-]{0,62}$"},
		"additionalProperties": d.of.schema(),
	}
}

// list is a sequence of values of one kind.
type list[V any] struct{ of kind[V] }

func (l list[V]) decode(r *report, n *yaml.Node, path string, into *[]V) {
	if n.Kind != yaml.SequenceNode {
		r.wrongType(n, path, "a list")
		return
	}
	for i, element := range n.Content {
		sub := index(path, i)
		r.places[sub] = placeOf(element)
		var v V
		l.of.decode(r, element, sub, &v)
		*into = append(*into, v)
	}
}

func (l list[V]) encode(vs []V) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for _, v := range vs {
		n.Content = append(n.Content, l.of.encode(v))
	}
	return n
}

func (l list[V]) schema() jsonSchema {
	return jsonSchema{"type": "array", "items": l.of.schema()}
}
