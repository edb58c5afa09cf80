  (table $t 1 funcref)
  (func (export "assay:plugin/decider@0.1.0#step") (param i32 i32 i32 i32) (result i32)
    (loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 10000)) (i32.const -1))))
    (unreachable))
