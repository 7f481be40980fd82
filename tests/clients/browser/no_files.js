// Stands for Node's fs: a page has no files.
export default {};
