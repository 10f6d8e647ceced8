exception Unknown {
  1: string sku
}

service Stock {
  i32 level(1: string sku) throws (1: Unknown unknown),
  i32 moved(1: string sku, 2: i32 by),
  oneway void note(1: string sku),
}
